"""What a command was asked to read: files, folders, globs and stdin become a list of inputs."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from cdvision.errors import CdvisionError
from cdvision.image_files import PLUGINS, photo_suffixes
from cdvision.texts import on_one_line, printable
from cdvision.whole_files import Listing, count_by_suffix, list_folder

STREAM_SUFFIXES = (".cdv",)
STDIN = "-"
UNTOLD = (".md", ".db", ".ini")  # a README, and what file managers leave behind

_IMAGE_STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
# Where an archive begins with which bytes.
_ARCHIVES = {(257, b"ustar"): "a tar", (0, b"\x1f\x8b"): "a gzip file", (0, b"PK\3\4"): "a zip"}


@dataclass(frozen=True)
class InputFile:
    """One thing to read, by its name in messages; stdin has no path.

    ``relative`` is its path below the folder that was given, kept when results go to a folder.
    """

    name: str
    path: Path | None
    relative: Path

    def read(self) -> bytes:
        """Return all bytes.

        Raises:
            OSError: it cannot be read; the message fits on one line.
            CdvisionError: it is an archive, neither a photo nor a stream.
        """
        data = self._bytes()
        for (place, start), kind in _ARCHIVES.items():
            if data.startswith(start, place):
                raise CdvisionError(f"expected a photo or a stream, found {kind}: extract it first")
        return data

    def _bytes(self) -> bytes:
        if self.path is None:
            if sys.stdin is None:
                raise OSError("stdin is closed")
            return sys.stdin.buffer.read()
        if os.path.isdir(self.path):
            os.listdir(self.path)  # raises where nobody may look into it
            raise IsADirectoryError("no file with a known suffix in this folder")
        try:
            return self.path.read_bytes()
        except FileNotFoundError as error:
            if self.path.is_symlink():
                told = f"a link to {printable(os.readlink(self.path))}, which is not there"
                raise FileNotFoundError(told) from error
            raise FileNotFoundError("no such file, and no file matches it as a pattern") from error

    def holds_image(self, data: bytes) -> bool:
        """Tell an image file from a stream: by its suffix, or else by how the bytes start."""
        suffix = self.relative.suffix.lower()
        if suffix in STREAM_SUFFIXES:
            return False
        if suffix in photo_suffixes():
            return True
        # AVIF and HEIC begin with the length of their first box, then its name.
        return data.startswith(_IMAGE_STARTS) or data[4:8] == b"ftyp"


def expand_inputs(arguments: Sequence[str], suffixes: Sequence[str]) -> list[InputFile]:
    """Return the inputs that the arguments name, each once, in a stable order.

    A folder is searched to the bottom for `suffixes`, and what it holds beside them is told on
    stderr; a file that is named is always taken.
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
    # os.path, not Path: it takes loops of links and over-long names for what is not there.
    if os.path.isdir(path):
        return _below(path, suffixes) or [_named(path)]
    # A file whose name holds a magic character is still that file.
    matches: list[str] = []
    if not os.path.lexists(path) and glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))
    found = []
    for match in map(Path, matches):
        found += _below(match, suffixes) if os.path.isdir(match) else [_named(match)]
    return found or [_named(path)]


def _below(folder: Path, suffixes: Sequence[str]) -> list[InputFile]:
    listing = list_folder(folder)
    chosen = [path for path in listing.files if path.suffix.lower() in suffixes]
    # What cannot be searched stays in the list too, and fails when it is read.
    chosen += [path for path, _ in listing.unread]
    _tell_skipped(folder, listing, suffixes)
    return [InputFile(str(path), path, path.relative_to(folder)) for path in chosen]


def _tell_skipped(folder: Path, listing: Listing, suffixes: Sequence[str]) -> None:
    """Say on stderr what a folder holds that is not read, such as photos of a format unknown."""
    passed = (*suffixes, *STREAM_SUFFIXES, *UNTOLD)
    left = [path for path in listing.files if not path.name.startswith(".")]
    left = [path for path in left if path.suffix.lower() not in passed]
    parts = [f"{len(left)} skipped: {count_by_suffix(left)}"] if left else []
    links = [str(path.relative_to(folder)) for path in listing.links]
    parts += [f"{name}: a link to a folder, not followed" for name in links]
    for package in sorted({PLUGINS[s].package for p in left if (s := p.suffix.lower()) in PLUGINS}):
        suffix = " and ".join(s for s, plugin in PLUGINS.items() if plugin.package == package)
        parts.append(f"{suffix} need {package} (pip install {package})")
    if parts:
        click.echo(on_one_line(f"cdvision: {folder}: {'; '.join(parts)}"), err=True)


def _named(path: Path) -> InputFile:
    return InputFile(str(path), path, Path(path.name))


inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
