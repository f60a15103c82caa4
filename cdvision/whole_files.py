"""Files that appear whole or not at all, and what a folder holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from cdvision.errors import CdvisionError

MOST_NAME = 200  # bytes of a name that leave room for a suffix: file systems take 255


def part_of(path: Path) -> Path:
    """Return where a file is written until it is whole: beside it, under a name that fits."""
    name = path.name
    if len(os.fsencode(name)) > MOST_NAME:
        name = f"{crc32(os.fsencode(name)):08x}"
    return path.with_name(f"{name}.part-{os.getpid()}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; raises CdvisionError that names it and says why not."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renaming within a folder is atomic: nobody sees half a file, whenever we are stopped.
        try:
            part.write_bytes(data)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before hours of work; raises CdvisionError."""
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> CdvisionError:
    """Return the error of a file that cannot be written."""
    return CdvisionError(f"{path} cannot be written: {error.strerror or error}")


@dataclass(frozen=True)
class Listing:
    """What lies below a folder.

    Attributes:
        files: sorted; links that lead nowhere are among them.
        links: to folders; they are not followed, since they may lead around in a circle.
        unread: folders that cannot be read, and why.
    """

    files: Sequence[Path]
    links: Sequence[Path]
    unread: Sequence[tuple[Path, str]]


def list_folder(folder: Path) -> Listing:
    """List a folder to the bottom."""
    files, links = list[Path](), list[Path]()
    unread: list[tuple[Path, str]] = []

    def note(error: OSError) -> None:
        unread.append((Path(error.filename), error.strerror or str(error)))

    for place, folders, names in os.walk(folder, onerror=note):
        below = [Path(place, name) for name in folders]
        links += [path for path in below if path.is_symlink()]
        files += [Path(place, name) for name in names]
    return Listing(sorted(files), sorted(links), unread)


def count_by_suffix(paths: Iterable[Path]) -> str:
    """Count files by their suffix.

    >>> count_by_suffix([Path("a.HEIC"), Path("b.heic"), Path("c.txt"), Path("README")])
    '2 .heic, 1 .txt, 1 without a suffix'
    """
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
