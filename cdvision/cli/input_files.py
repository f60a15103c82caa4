"""What a command was asked to read: files, folders, globs and stdin become a list of inputs."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cdvision.photo import PHOTO_SUFFIXES

STREAM_SUFFIXES = (".cdv",)
STDIN = "-"

_IMAGE_STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class InputFile:
    """One thing to read, by its name in messages; stdin has no path.

    ``relative`` is its path below the folder that was given, kept when results go to a folder.
    """

    name: str
    path: Path | None
    relative: Path

    def read(self) -> bytes:
        """Return all bytes. Raises OSError with a message that fits on one line."""
        if self.path is None:
            return sys.stdin.buffer.read()
        if self.path.is_dir():
            raise IsADirectoryError("no file with a known suffix in this folder")
        if not self.path.exists():
            raise FileNotFoundError("no such file, and no file matches it as a pattern")
        return self.path.read_bytes()

    def holds_image(self, data: bytes) -> bool:
        """Tell an image file from a stream: by its suffix, or else by how the bytes start."""
        suffix = self.relative.suffix.lower()
        if suffix in STREAM_SUFFIXES:
            return False
        if suffix in PHOTO_SUFFIXES:
            return True
        # AVIF and HEIC begin with the length of their first box, then its name.
        return data.startswith(_IMAGE_STARTS) or data[4:8] == b"ftyp"


def expand_inputs(arguments: Sequence[str], suffixes: Sequence[str]) -> list[InputFile]:
    """Return the inputs that the arguments name, each once, in a stable order.

    A folder is searched to the bottom for `suffixes`; a file that is named is always taken.
    """
    # What does not exist stays in the list and fails when it is read: one bad name does not keep
    # the others from being read.
    found: dict[str, InputFile] = {}
    for argument in arguments:
        for item in _expand(argument, suffixes):
            found.setdefault(item.name, item)
    return list(found.values())


def _expand(argument: str, suffixes: Sequence[str]) -> Iterable[InputFile]:
    path = Path(argument)
    if argument == STDIN:
        return [InputFile(STDIN, None, Path("stdin"))]
    if path.is_dir():
        return _below(path, suffixes) or [_named(path)]
    # A file whose name holds a magic character is still that file.
    matches: list[str] = []
    if not path.exists() and glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))
    found = []
    for match in map(Path, matches):
        found += _below(match, suffixes) if match.is_dir() else [_named(match)]
    return found or [_named(path)]


def _below(folder: Path, suffixes: Sequence[str]) -> list[InputFile]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    files = [path for path in found if path.is_file()]
    return [InputFile(str(path), path, path.relative_to(folder)) for path in files]


def _named(path: Path) -> InputFile:
    return InputFile(str(path), path, Path(path.name))


inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
