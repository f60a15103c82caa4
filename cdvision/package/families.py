"""The one registry of codecs and families: what each name stands for is imported when asked for.

A new family is a new folder and two lines here. Packages of third parties add theirs by entry
points: ``cdvision.codecs`` (the entry's name is the codec's number) and ``cdvision.families``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from cdvision.errors import ModelError

HYPERPRIOR, CHECKERBOARD, HSC, SFIC_STYLE, DESCRIBED_MAP = 1, 2, 3, 4, 5
# Number in a stream's header -> "module:Class" of its coder.
CODECS = {
    HYPERPRIOR: "cdvision.entropy.hyperprior:HyperpriorCoder",
    CHECKERBOARD: "cdvision.models.dicm.receiver.coder:CheckerboardCoder",
    HSC: "cdvision.models.faces.receiver.hsc:HscCoder",
    SFIC_STYLE: "cdvision.models.faces.receiver.style_layers:StyleLayersCoder",
    DESCRIBED_MAP: "cdvision.models.small.receiver.coder:DescribedMapCoder",
}

# Name of a family -> "module:NAME" of its ``Family``.
FAMILIES = {
    "small": "cdvision.models.small.family:FAMILY",
    "dicm": "cdvision.models.dicm.family:FAMILY",
    "faces": "cdvision.models.faces.family:FAMILY",
    "any_network": "cdvision.models.any_network.family:FAMILY",
}


@dataclass(frozen=True)
class Family:
    """Where the parts of a family are; each is named as "module:name" and imported when needed."""

    # For each network that a card may name, the module of its dense graphs.
    graphs: Mapping[str, str] = field(default_factory=dict)
    # For each group of the command line (``train``, ``bench``), its commands.
    commands: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # For each stage whose runs ``cdvision train package`` takes, what builds a package.
    builders: Mapping[str, str] = field(default_factory=dict)
    # For each name that ``cdvision models --cost`` takes, the table of its parts.
    costs: Mapping[str, str] = field(default_factory=dict)
    # For each network that a card may name, its uncompressed task networks.
    uncompressed: Mapping[str, str] = field(default_factory=dict)


def imported(target: str) -> Any:
    """Return what "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


def coder_class(codec: int) -> Any:
    """Return the coder's class of a codec's number; raises ModelError for an unknown one."""
    if codec not in CODECS:
        for name, target in _entries("cdvision.codecs"):
            CODECS.setdefault(int(name), target)  # nobody takes the place of a codec of ours
    if codec not in CODECS:
        known = ", ".join(map(str, CODECS))
        raise ModelError(f"unknown codec {codec}: this version knows {known}; update cdvision")
    return imported(CODECS[codec])


@cache
def families() -> tuple[Family, ...]:
    """Return every family, those of installed third parties among them."""
    # Ours come first, and nobody takes their place.
    named = {**FAMILIES, **dict(_entries("cdvision.families")), **FAMILIES}
    return tuple(imported(target) for target in named.values())


def find_part(kind: str, name: str) -> Any:
    """Import one part of a family; ``kind`` is a field of ``Family`` such as ``"graphs"``.

    Raises:
        ModelError: no family has a part of that name.
    """
    parts = known_parts(kind)
    if name not in parts:
        raise ModelError(f"{kind}: no {name!r}: expected one of {', '.join(parts)}")
    return imported(parts[name])


def known_parts(kind: str) -> dict[str, str]:
    """Return the parts of a kind in every family, by name."""
    return {name: target for one in families() for name, target in getattr(one, kind).items()}


def commands(group: str) -> dict[str, str]:
    """Return the commands that families add to a group of the command line, by name."""
    return {name: t for one in families() for name, t in one.commands.get(group, {}).items()}


def _entries(group: str) -> Iterable[tuple[str, str]]:
    return ((entry.name, entry.value) for entry in entry_points(group=group))
