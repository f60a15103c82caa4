"""Crops of photos as cameras gave them, and the sizes to which networks of the zoo enlarge them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cdvision.training.photo_bank import CropPlan, PhotoBank

CELL = 32  # pixels: sides of crops are multiples of it
LARGEST = 320  # pixels: side of an enlarged crop at most, which bounds a step's time
MOST = 160  # pixels: side of a crop at most
SHARE = 0.5  # power of a group's number of photos by which it is drawn


class NativeBank(PhotoBank):
    """uint8 photos (3, H, W) cut into squares whose pixels are never resampled."""

    def _crop(self, photo: Tensor, side: int, rng: np.random.Generator) -> Tensor:
        height, width = photo.shape[1:]
        if min(height, width) < side:
            return super()._crop(photo, side, rng)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = photo[None, :, top : top + side, left : left + side].float()
        return crop.flip(3) if rng.random() < 0.5 else crop


def native_bank(photos: Sequence[Tensor], *, sides: Sequence[int] | None = None) -> NativeBank:
    """Return a bank whose crops have one of ``sides``, or of those that suit the photos."""
    short = statistics.median(min(photo.shape[1:]) for photo in photos)
    side = max(2 * CELL, int(0.8 * short) // CELL * CELL)
    # Large photos tell more than small ones, and are more like those that networks see.
    share = short * len(photos) ** SHARE
    return NativeBank(photos, CropPlan(sides or (min(side, MOST),), least=0.7, share=share))


def draw_size(side: int, zoom: tuple[float, float], rng: np.random.Generator) -> int:
    """Draw the side to which a crop is enlarged, a multiple of 32.

    >>> draw_size(160, (2.0, 2.0), np.random.default_rng(0))
    320
    """
    size = round(side * rng.uniform(*zoom) / CELL) * CELL
    return int(min(max(size, side), max(LARGEST, side)))


def joined(batches: Sequence[Tensor]) -> Tensor:
    """Cut batches (N, 3, S, S) to the least of their sides and join them."""
    least = min(batch.shape[3] for batch in batches)
    return torch.cat([batch[:, :, :least, :least] for batch in batches])
