"""Which class a label means: an index, a name, or one of ImageNet's WordNet ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

WNID = re.compile(r"n\d{8}")
IMAGENET_CLASSES = 1000


class ClassIndex:
    """Finds classes by what people call them.

    >>> index = ClassIndex(["tench, Tinca tinca", "goldfish, Carassius auratus"])
    >>> index.find("Goldfish"), index.find("tinca_tinca"), index.find("0"), index.find("shark")
    (1, 0, 0, None)

    Args:
        names: a model's class names, synonyms separated by commas; None knows indices only. With
            1,000 names, WordNet ids are ImageNet's, whose classes stand in the order of their ids.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self._count = len(names) if names is not None else None
        self._by_name: dict[str, int | None] = {}
        synonyms = [(part, n) for n, name in enumerate(names or ()) for part in name.split(",")]
        for name, number in synonyms:
            known = self._by_name.setdefault(_plain(name), number)
            if known != number:  # two cranes, a bird and a machine: neither is meant for sure
                self._by_name[_plain(name)] = None
        # A whole name that only one class bears means that class, whatever its parts mean.
        whole = [_plain(name) for name in names or ()]
        self._by_name |= {name: n for n, name in enumerate(whole) if whole.count(name) == 1}

    @property
    def expected(self) -> str:
        """Say what `find` understands."""
        if self._count is None:
            return "class indices"
        return f"indices below {self._count}, names of the model's classes or WordNet ids"

    def find(self, label: str) -> int | None:
        """Return the index of the class, or None where no class or more than one fits."""
        if WNID.fullmatch(label) and self._count == IMAGENET_CLASSES:
            return _wnids().get(label)
        if label.isascii() and label.isdigit():
            number = int(label)
            return number if self._count is None or number < self._count else None
        return self._by_name.get(_plain(label))


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.lower()))


@cache
def _wnids() -> dict[str, int]:
    """Read the WordNet ids of ILSVRC 2012's classes, in their usual order."""
    text = resources.files("cdvision.evaluation").joinpath("imagenet_wnids.txt").read_text("ascii")
    return {wnid: number for number, wnid in enumerate(text.split())}
