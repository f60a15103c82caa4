"""Answers on disk, so that an interrupted evaluation goes on where it was; never pickled."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.evaluation.answer_formats import AnswerFormat
from cdvision.evaluation.notices import notice

FORMAT = "cdvision answers 1"
# What turns a photo into an answer; a change of anything else leaves answers as they were.
_NO_ANSWERS = {"bench", "building", "cli", "commands", "evaluation", "fitting", "training"}
Key = Mapping[str, str | int | float | None]


class AnswerCache:
    """Answers to the photos of one set by one model at one quality, a JSON line each.

    The first line says whose answers these are, every other line carries a checksum and the
    SHA-256 of the photo that was answered. A file that fails any check is not used at all.

    Args:
        folder: where caches lie; made where it does not exist.
        key: everything that an answer depends on, but for the photo itself.
        format: how answers are written and read.

    Raises:
        CdvisionError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, key: Key, format: AnswerFormat[Any]) -> None:
        self._format = format
        self._header = {"format": FORMAT, "key": dict(key)}
        digest = hashlib.sha256(_canonical(self._header)).hexdigest()
        name = "-".join(str(key[part]) for part in ("codec", "task", "quality") if part in key)
        self.path = folder / f"{re.sub('[^a-zA-Z0-9.]+', '-', name)}-{digest[:20]}.jsonl"
        self._answers: dict[str, tuple[Any, int]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._load():
                self.path.write_bytes(_canonical(self._header) + b"\n")
        except OSError as error:
            raise CdvisionError(
                f"{folder}: cannot keep answers there ({error.strerror}): "
                "choose another folder with --cache, or --no-cache"
            ) from error

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, photo: bytes) -> tuple[Any, int] | None:
        """Return the answer for a photo's file and the bytes that were sent, or None."""
        return self._answers.get(hashlib.sha256(photo).hexdigest())

    def put(self, photo: bytes, plain: dict[str, Any], size: int) -> None:
        """Append an answer in plain values and the number of bytes that were sent."""
        entry = {"photo": hashlib.sha256(photo).hexdigest(), "bytes": size, "answer": plain}
        text = _canonical(entry)
        with open(self.path, "ab") as file:
            file.write(b'{"check":%d,"entry":%s}\n' % (zlib.crc32(text), text))

    def _load(self) -> bool:
        """Read what is there; return False where a new file has to be begun."""
        if not self.path.exists():
            return False
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        number = 0
        try:
            for number, line in enumerate(content[:whole].splitlines()):
                self._read_line(number, json.loads(line))
            if not whole:
                raise ValueError("it is empty")
        except (LookupError, TypeError, ValueError, CdvisionError) as error:
            notice(f"{self.path}: line {number + 1} is damaged or foreign ({error}): not used")
            self._answers.clear()
            return False
        if whole < len(content):  # the last answer was being written when something stopped it
            os.truncate(self.path, whole)
        return True

    def _read_line(self, number: int, line: Any) -> None:
        if number == 0:
            if line != self._header:
                raise ValueError("it belongs to another evaluation")
            return
        entry = line["entry"]
        if line["check"] != zlib.crc32(_canonical(entry)):
            raise ValueError("its checksum differs")
        photo, size = entry["photo"], entry["bytes"]
        if not isinstance(photo, str) or type(size) is not int or size < 0:
            raise ValueError("expected a photo's SHA-256 and a number of bytes")
        self._answers[photo] = self._format.read(entry["answer"]), size


@dataclass(frozen=True)
class CacheFolder:
    """Where answers about one set of photos are kept.

    Attributes:
        folder: the files lie in it.
        data: hash over the names and labels of the set.
    """

    folder: Path
    data: str

    def open(self, key: Key, format: AnswerFormat[Any]) -> AnswerCache:
        """Open the answers that a key names, given by this code about this set."""
        return AnswerCache(self.folder, {**key, "data": self.data, "code": code_digest()}, format)


def default_cache_folder(kind: str = "eval") -> Path:
    """Return where this user's caches of one kind go; those of evaluations by default."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return Path(base or Path.home() / ".cache") / "cdvision" / kind


@cache
def code_digest() -> str:
    """SHA-256 over the source files that turn photos into answers: a change voids old answers."""
    import cdvision
    import cdvision.heads

    digest = hashlib.sha256()
    for package in (cdvision, cdvision.heads):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if _NO_ANSWERS.isdisjoint(path.relative_to(root).parts):
                digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def files_digest(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the names and hashes of files, in the order of the names."""
    return hashlib.sha256(_canonical(dict(hashes))).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
