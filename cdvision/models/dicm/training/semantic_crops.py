"""Semantic-guided crops: views that show the object, drawn from a heat map of the network itself.

Source: Peng et al., "Crafting Better Contrastive Views for Siamese Representation Learning"
(ContrastiveCrop), CVPR 2022, with the constants that DICM trains with (METHODS 1.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAT_THRESHOLD = 0.1
CENTRE_ALPHA = 0.6  # of the Beta distribution: below 1 it favours the box's edges, varied views
LEAST_AREA = 0.2  # of the photo
ASPECTS = (3 / 4, 4 / 3)
ATTEMPTS = 10


class Crop(NamedTuple):
    """A rectangle in whole pixels of a photo."""

    top: int
    left: int
    height: int
    width: int


class Box(NamedTuple):
    """Where the object is, as fractions of the photo's height and width."""

    top: float
    left: float
    bottom: float
    right: float


WHOLE_PHOTO = Box(0.0, 0.0, 1.0, 1.0)


def heat_map(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum the last convolution's channels, spread to 0..1, enlarge: (N, C, h, w) -> (N, *size)."""
    heat = features.float().sum(1, keepdim=True)
    low, high = heat.amin((2, 3), keepdim=True), heat.amax((2, 3), keepdim=True)
    heat = (heat - low) / (high - low).clamp_min(1e-6)
    return F.interpolate(heat, size, mode="bilinear", align_corners=False).squeeze(1)


def object_boxes(heat: Tensor) -> Tensor:
    """Return extents (N, 4) of the heat in maps (N, H, W): top, left, bottom, right (fractions)."""
    top, bottom = _extent(heat.amax(2) > HEAT_THRESHOLD)
    left, right = _extent(heat.amax(1) > HEAT_THRESHOLD)
    return torch.stack([top, left, bottom, right], dim=1)


def _extent(lines: Tensor) -> tuple[Tensor, Tensor]:
    # First and one-past-last true entry of each row (N, L), as fractions of L; a map without any
    # heat gives the whole photo.
    lines = lines | ~lines.any(1, keepdim=True)
    length = lines.shape[1]
    # Of several largest values argmax names the first.
    first = lines.float().argmax(1)
    last = length - lines.flip(1).float().argmax(1)
    return first.float() / length, last.float() / length


def draw_crop(
    height: int, width: int, box: Box, rng: np.random.Generator, *, least_area: float = LEAST_AREA
) -> Crop:
    """Draw a crop of a photo (height x width pixels) whose centre lies in the object's box."""
    crop_height, crop_width = _draw_size(height, width, rng, least_area)
    top = _draw_start(height, crop_height, box.top, box.bottom, rng)
    left = _draw_start(width, crop_width, box.left, box.right, rng)
    return Crop(top, left, crop_height, crop_width)


def _draw_size(
    height: int, width: int, rng: np.random.Generator, least_area: float
) -> tuple[int, int]:
    # As the usual random resized crop: evenly in the logarithm, so that an aspect is as likely as
    # its inverse.
    low, high = (math.log(aspect) for aspect in ASPECTS)
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(least_area, 1.0)
        aspect = math.exp(rng.uniform(low, high))
        crop_height, crop_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            return crop_height, crop_width
    return min(height, width), min(height, width)


def _draw_start(length: int, crop: int, first: float, last: float, rng: np.random.Generator) -> int:
    # Where the crop would leave the photo, its centre moves inwards by as much as that takes.
    reach = crop / 2, length - crop / 2
    low, high = np.clip((first * length, last * length), *reach)
    centre = low + (high - low) * rng.beta(CENTRE_ALPHA, CENTRE_ALPHA)
    return int(np.clip(round(centre - crop / 2), 0, length - crop))


class ObjectBoxes(nn.Module):
    """The box of every photo of a set, the whole photo until the first refresh."""

    boxes: Tensor
    refreshes: Tensor

    def __init__(self, photos: int, *, every: float = 0.1) -> None:
        super().__init__()
        # The paper refreshes after 20 warm-up epochs and every 20 of 200. Runs here are as long as
        # their minutes, so the schedule is a share of the run.
        self.every = every
        # Buffers, so that a resumed run crops as the interrupted one would have.
        self.register_buffer("boxes", torch.tensor([WHOLE_PHOTO]).repeat(photos, 1))
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.long))

    def due(self, done: float) -> bool:
        """Whether a refresh is due when a share ``done`` (0..1) of the run is over."""
        return self._refreshes(done) > int(self.refreshes)

    def box(self, photo: int) -> Box:
        """Return the box of a photo by its number."""
        return Box(*self.boxes[photo].tolist())

    def replace(self, boxes: Tensor, done: float) -> None:
        """Take new boxes (photos, 4) at a share ``done`` of the run."""
        self.boxes.copy_(boxes)
        self.refreshes.fill_(self._refreshes(done))

    def _refreshes(self, done: float) -> int:
        # A tenth of the run that has just begun must not be rounded down to the one before.
        return int(done / self.every + 1e-9)
