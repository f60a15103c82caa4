"""Finds photos without labels in folders and tars, and holds a fixed share of them out."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvision.errors import CdvisionError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif", ".tif", ".tiff", ".ppm")
HELD_OUT_SHARE = 0.1
LEAST_PHOTOS = 12
LEAST_HELD_OUT = 4


@dataclass(frozen=True)
class PhotoFile:
    """One file that should be a photo.

    Attributes:
        name: path below its folder, or in its tar.
        source: file to read, the photo's own or the tar's.
        offset: where it starts in that file.
        size: in bytes; up to the end where None.
    """

    name: str
    source: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Return its bytes; raises OSError."""
        with open(self.source, "rb") as file:
            file.seek(self.offset)
            return file.read() if self.size is None else file.read(self.size)

    @property
    def rank(self) -> float:
        """A number in 0..1 that depends on the name alone: who is held out, and who comes first."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6], "big") / 2**48


def find_photos(
    sources: Sequence[Path], splits: Mapping[str, str] | None = None
) -> list[PhotoFile]:
    """List the photos of folders (searched to the bottom) and tars, in the order of their ranks.

    Args:
        sources: folders and tars.
        splits: split of some file names; a file whose split is not ``train`` is left out.

    Raises:
        CdvisionError: a source is neither, or there are too few photos.
    """
    splits = splits or {}
    found = [
        file
        for source in sources
        for file in (_in_folder(source) if source.is_dir() else _in_tar(source))
        if file.name.lower().endswith(SUFFIXES)
        and splits.get(Path(file.name).name, "train") == "train"
    ]
    if len(found) < LEAST_PHOTOS:
        places = ", ".join(map(str, sources))
        raise CdvisionError(
            f"{places}: expected at least {LEAST_PHOTOS} photos ({', '.join(SUFFIXES)}), found "
            f"{len(found)}"
        )
    return sorted(found, key=lambda file: (file.rank, file.name))


def hold_out(files: Sequence[PhotoFile]) -> tuple[list[PhotoFile], list[PhotoFile]]:
    """Return training and held-out photos: the same file is held out whatever comes beside it."""
    count = sum(file.rank < HELD_OUT_SHARE for file in files)
    count = max(count, LEAST_HELD_OUT)
    return list(files[count:]), list(files[:count])


def _in_folder(folder: Path) -> Iterator[PhotoFile]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield PhotoFile(path.relative_to(folder).as_posix(), path)


def _in_tar(path: Path) -> Iterator[PhotoFile]:
    try:
        with tarfile.open(path, "r:") as tar:  # plain: a member is then a piece of the file
            for member in tar:
                if member.isfile():
                    yield PhotoFile(member.name, path, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise CdvisionError(
            f"{path}: expected a folder or an uncompressed tar of photos ({error})"
        ) from error
