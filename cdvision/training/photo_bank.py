"""Decoded training photos, kept on the device, and random crops from them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
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

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class CropPlan:
    """How batches are cut from one group of photos.

    Attributes:
        sides: crop sides in pixels, multiples of 32; one is drawn a batch.
        least: the smallest crop, as a fraction of the photo's short side.
        share: how often the group is drawn, relative to the others.
    """

    sides: Sequence[int]
    least: float
    share: float


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
        return torch.cat([self._crop(self.photos[i], side, rng) for i in chosen])

    def _crop(self, photo: Tensor, side: int, rng: np.random.Generator) -> Tensor:
        height, width = photo.shape[1:]
        cut = max(8, round(min(height, width) * rng.uniform(self.plan.least, 1.0)))
        top, left = rng.integers(height - cut + 1), rng.integers(width - cut + 1)
        crop = photo[None, :, top : top + cut, left : left + cut].float()
        if rng.random() < 0.5:
            crop = crop.flip(3)
        mode = {"mode": "bilinear", "align_corners": False, "antialias": True}
        return F.interpolate(crop, (side, side), **mode)  # type: ignore[arg-type]


def read_photos(source: Path, *, device: torch.device, wanted: set[str] | None = None) -> list[Tensor]:
    """Decode every image of a folder or tar, in the order of their names.

    Args:
        source: a folder (searched recursively) or a tar file.
        device: where the uint8 (3, H, W) tensors are kept.
        wanted: file names to keep; all where None.
    """
    files = sorted(_files(source, wanted))
    with ThreadPoolExecutor(4) as pool:
        decoded = pool.map(_decode, (data for _, data in files))
        progress = tqdm(decoded, total=len(files), desc=source.name, unit="photo", disable=None)
        return [torch.from_numpy(p).permute(2, 0, 1).to(device) for p in progress]


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def _files(source: Path, wanted: set[str] | None) -> Iterator[tuple[str, bytes]]:
    def keep(name: str) -> bool:
        return name.lower().endswith(IMAGE_SUFFIXES) and (wanted is None or name in wanted)

    if source.is_dir():
        for path in source.rglob("*"):
            if keep(path.name):
                yield path.name, path.read_bytes()
        return
    with tarfile.open(source) as tar:
        for member in tar:
            content = tar.extractfile(member) if keep(Path(member.name).name) else None
            if content is not None:
                yield member.name, content.read()
