"""Where photos lie: a folder or a tar, read one at a time."""

from __future__ import annotations

import tarfile
import weakref
from pathlib import Path
from typing import Protocol

from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES


class PhotoFiles(Protocol):
    """A place that holds photos under names such as ``cats/1.jpg``."""

    def names(self) -> list[str]:
        """Return the names of all photos, sorted."""

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; raises CdvisionError where there is none."""


class FolderFiles:
    """Photos in a folder and the folders below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of all photos, sorted."""
        paths = (p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*"))
        return sorted(name for name in paths if name.lower().endswith(PHOTO_SUFFIXES))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; raises CdvisionError where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            raise CdvisionError(f"{self.folder / name}: no photo there ({reason})") from error


class TarFiles:
    """Photos in a tar, which stays open while this lives; reading a compressed one back is slow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tar = tarfile.open(path)
            # Closed when the last user lets go: nobody has to know that a tar is behind the photos.
            weakref.finalize(self, self._tar.close)
            self._members = {
                member.name.removeprefix("./"): member
                for member in self._tar.getmembers()
                if member.isfile() or member.islnk() or member.issym()
            }
        except (OSError, tarfile.TarError) as error:
            raise CdvisionError(f"{path}: expected a folder or a tar ({error})") from error

    def names(self) -> list[str]:
        """Return the names of all photos, sorted."""
        return sorted(name for name in self._members if name.lower().endswith(PHOTO_SUFFIXES))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file; raises CdvisionError where there is none."""
        member = self._members.get(name.removeprefix("./"))
        try:
            content = None if member is None else self._tar.extractfile(member)
        except (KeyError, RecursionError):  # a link that leads nowhere, or around in a circle
            content = None
        if content is None:
            example = next(iter(self._members), "nothing")
            raise CdvisionError(f"{self.path}: no photo {name} in it; it holds {example}")
        return content.read()


def open_photo_files(path: Path) -> PhotoFiles:
    """Open a folder or a tar; raises CdvisionError where it is neither."""
    return FolderFiles(path) if path.is_dir() else TarFiles(path)
