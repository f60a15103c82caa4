"""Finds photos without labels in folders and tars, holds a fixed share of them out, reads them."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from cdvision.errors import CdvisionError, ImageError
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.photo import read_photo
from cdvision.training.photo_bank import PhotoBank, plan_for

HELD_OUT_SHARE = 0.1
LEAST_PHOTOS = 12
LEAST_HELD_OUT = 4
LEAST_SIDE = 32  # pixels of a photo's short side: what is smaller teaches how blur looks
MOST_SHORT = 320  # pixels of a kept photo's short side: crops are shrunk from no more


@dataclass(frozen=True)
class PhotoFile:
    """One file that should be a photo."""

    name: str  # path below its folder, or in its tar
    source: Path  # the photo's own file, or the tar
    offset: int = 0  # of the photo in that file
    size: int | None = None  # in bytes; up to the end where None

    def read(self) -> bytes:
        """Return its bytes; raises OSError."""
        with open(self.source, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def image(self) -> Image.Image:
        """Decode the photo; raises ImageError that says why it cannot be used."""
        try:
            image = read_photo(self.read())
        except (ImageError, OSError) as error:
            raise ImageError(str(error).removeprefix("image bytes: ")) from error
        if min(image.size) < LEAST_SIDE:
            size = " x ".join(map(str, image.size))
            raise ImageError(f"{size} pixels: expected at least {LEAST_SIDE}")
        return image

    @property
    def rank(self) -> float:
        """A number in 0..1 that depends on the name alone: who is held out, and who comes first."""
        # 48 bits of a hash: a float holds them exactly, on every machine.
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6], "big") / 2**48


def find_photos(
    sources: Sequence[Path], splits: Mapping[str, str] | None = None
) -> list[PhotoFile]:
    """List the photos of folders (searched to the bottom) and tars, in the order of their ranks.

    A file whose name has a split other than ``train`` is left out. Raises CdvisionError where a
    source is neither folder nor tar, or there are too few photos.
    """
    splits = splits or {}
    found = [
        file
        for source in sources
        for file in (_in_folder(source) if source.is_dir() else _in_tar(source))
        if file.name.lower().endswith(PHOTO_SUFFIXES)
        and splits.get(Path(file.name).name, "train") == "train"
    ]
    if len(found) < LEAST_PHOTOS:
        places = ", ".join(map(str, sources))
        raise CdvisionError(
            f"{places}: expected at least {LEAST_PHOTOS} photos ({', '.join(PHOTO_SUFFIXES)}), "
            f"found {len(found)}"
        )
    return sorted(found, key=lambda file: (file.rank, file.name))


def hold_out(files: Sequence[PhotoFile]) -> tuple[list[PhotoFile], list[PhotoFile]]:
    """Return training and held-out photos: the same file is held out whatever comes beside it."""
    # Files are sorted by rank: those below the share are the first ones.
    count = max(LEAST_HELD_OUT, sum(file.rank < HELD_OUT_SHARE for file in files))
    return list(files[count:]), list(files[:count])


def _in_folder(folder: Path) -> Iterator[PhotoFile]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield PhotoFile(path.relative_to(folder).as_posix(), path)


def _in_tar(path: Path) -> Iterator[PhotoFile]:
    try:
        # "r:" refuses compression: a member is then a piece of the file, which can be read alone.
        with tarfile.open(path, "r:") as tar:
            files: dict[str, tarfile.TarInfo] = {}
            for member in tar:
                # A hard link is read where the file before it lies.
                found = files.get(member.linkname) if member.islnk() else member
                if found is not None and found.isfile():
                    files[member.name] = found
                    yield PhotoFile(member.name, path, found.offset_data, found.size)
    except (OSError, tarfile.TarError) as error:
        raise CdvisionError(
            f"{path}: expected a folder or an uncompressed tar of photos ({error})"
        ) from error


def photo_bank(
    files: Sequence[PhotoFile], device: torch.device
) -> tuple[PhotoBank, dict[str, str]]:
    """Decode photos for crops; return them, and the reason for each left out, by name."""
    photos: list[Tensor] = []
    left_out: dict[str, str] = {}
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, files)
        bar = tqdm(decoded, total=len(files), desc="photos", unit="photo", disable=None)
        for file, found in zip(files, bar, strict=True):
            if isinstance(found, ImageError):
                left_out[file.name] = str(found)
            else:
                photos.append(found.to(device))
    if not photos:
        raise none_usable(len(files), left_out, otherwise="there is none")
    return PhotoBank(photos, plan_for(photos)), left_out


def _decode(file: PhotoFile) -> Tensor | ImageError:
    """Return a photo (3, H, W) uint8, or why it cannot be used."""
    try:
        image = file.image()
    except ImageError as error:
        return error
    short = min(image.size)
    if short > MOST_SHORT:
        width, height = (max(1, round(side * MOST_SHORT / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def none_usable(photos: int, left_out: Mapping[str, str], *, otherwise: str) -> CdvisionError:
    """Return the error of photos of which none can be used: it names the first, and why."""
    name, reason = next(iter(left_out.items()), ("", otherwise))
    return CdvisionError(f"none of {photos} photos can be used: {name}: {reason}")
