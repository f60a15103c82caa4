"""Decoded training photos, kept on the device, and random crops from them."""

from __future__ import annotations

import io
import statistics
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES

MAX_ENLARGING = 1.2  # enlarged crops are blurred, and blur is cheaper to code than any photo


@dataclass(frozen=True)
class CropPlan:
    """How batches are cut from one group of photos."""

    sides: Sequence[int]  # of crops in pixels, multiples of 32; one is drawn a batch
    least: float  # the smallest crop, as a fraction of the photo's short side
    share: float  # how often the group is drawn, relative to the others


class PhotoBank:
    """uint8 photos (3, H, W) on one device, cut into square, flipped, resized batches."""

    def __init__(self, photos: Sequence[Tensor], plan: CropPlan) -> None:
        if not photos:
            raise CdvisionError("no training photo found")
        self.photos, self.plan = photos, plan

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """Return (size, 3, S, S) float32 in 0..255, S drawn from the plan's sides."""
        side = int(rng.choice(self.plan.sides))
        chosen = rng.integers(len(self.photos), size=size)
        return self.crops(chosen.tolist(), side, rng)

    def crops(self, chosen: Sequence[int], side: int, rng: np.random.Generator) -> Tensor:
        """Return one crop of each chosen photo: (n, 3, side, side) float32 in 0..255."""
        return torch.cat([self._crop(self.photos[i], side, rng) for i in chosen])

    def _crop(self, photo: Tensor, side: int, rng: np.random.Generator) -> Tensor:
        height, width = photo.shape[1:]
        short = min(height, width)
        least = min(1.0, max(self.plan.least, side / MAX_ENLARGING / short))
        cut = max(8, round(short * rng.uniform(least, 1.0)))
        top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
        crop = photo[None, :, top : top + cut, left : left + cut].float()
        if rng.random() < 0.5:
            crop = crop.flip(3)
        # Antialiased: without it, shrunken photos have edges that no camera makes.
        mode = {"mode": "bilinear", "align_corners": False, "antialias": True}
        return F.interpolate(crop, (side, side), **mode)  # type: ignore[arg-type]


def draw_batch(banks: Sequence[PhotoBank], size: int, rng: np.random.Generator) -> Tensor:
    """Draw a group by its share and a batch (size, 3, S, S) of crops from it."""
    shares = np.array([bank.plan.share for bank in banks])
    return banks[rng.choice(len(banks), p=shares / shares.sum())].batch(size, rng)


def count_photos(banks: Sequence[PhotoBank]) -> int:
    """Count the photos of all groups."""
    return sum(len(bank.photos) for bank in banks)


def plan_for(photos: Sequence[Tensor]) -> CropPlan:
    """Choose crops near the photos' own resolution: enlarging blurs, shrinking throws away."""
    short = statistics.median(min(photo.shape[1:]) for photo in photos)
    sides = (160, 192) if short < 200 else (192, 224, 256)
    # The power draws small sets more often than their share, or a run would hardly see them.
    return CropPlan(sides=sides, least=0.7, share=len(photos) ** 0.6)


def read_photos(
    source: Path, *, device: torch.device, splits: Mapping[str, str] | None = None
) -> list[Tensor]:
    """Decode the training images of a folder or tar to uint8 (3, H, W), in the order of names.

    A file that ``splits`` gives another split than ``train`` is left out.
    """
    known = splits or {}

    def keep(name: str) -> bool:
        return name.lower().endswith(PHOTO_SUFFIXES) and known.get(name, "train") == "train"

    files = sorted(photo_contents(source, keep))
    return [photo.to(device) for photo in _decoded(files, source.name)]


def read_named_photos(
    sources: Sequence[Path], names: Collection[str], *, of: Path
) -> Iterator[tuple[str, Tensor]]:
    """Yield name and uint8 (3, H, W) of every photo that is named, in the sources' order.

    ``names`` are without folders; ``of`` is the file that names them, for messages.

    Raises:
        CdvisionError: a source is neither a folder nor a tar, or none of the photos is there.
    """
    wanted = set(names)
    files = [file for source in sources for file in photo_contents(source, wanted.__contains__)]
    if not files:
        places = ", ".join(map(str, sources))
        raise CdvisionError(f"none of the {len(wanted)} photos that {of} names is in {places}")
    for (name, _), pixels in zip(files, _decoded(files, of.stem), strict=True):
        yield Path(name).name, pixels


def photo_contents(source: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name (a tar's with its folders) and content of the files whose bare name is kept."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if keep(path.name):
                yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                content = tar.extractfile(member) if keep(Path(member.name).name) else None
                if content is not None:
                    yield member.name, content.read()
    except (OSError, tarfile.TarError) as error:
        raise CdvisionError(f"{source}: expected a folder or a tar of photos ({error})") from error


def _decoded(files: Sequence[tuple[str, bytes]], title: str) -> Iterator[Tensor]:
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, (data for _, data in files))
        yield from tqdm(decoded, total=len(files), desc=title, unit="photo", disable=None)


def _decode(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
