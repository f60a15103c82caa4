"""Two augmented views of each photo, cut around the objects that the network itself sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from cdvision.errors import CdvisionError
from cdvision.models.dicm.training.augmentation import augment
from cdvision.models.dicm.training.semantic_crops import (
    ObjectBoxes,
    draw_crop,
    heat_map,
    object_boxes,
)
from cdvision.training.plan import Plan
from cdvision.training.protocols import Backbone, channels_last

HEAT_SIDE = 224  # pixels, at which the network looks for objects
HEAT_BATCH = 32


class ViewBank:
    """uint8 photos (3, H, W) with the box of the object in each, for square views of ``side``.

    Boxes are refreshed ``every`` share of the run; above 1 they never are.
    """

    def __init__(
        self, photos: Sequence[Tensor], side: int, *, every: float = 0.1, heat_side: int = HEAT_SIDE
    ) -> None:
        if not photos:
            raise CdvisionError("no training photo found")
        self.photos, self.side, self.heat_side = photos, side, heat_side
        self.boxes = ObjectBoxes(len(photos), every=every)

    def views(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return two batches (size, 3, side, side), float32 0..255, of the same photos."""
        chosen = rng.choice(len(self.photos), size=size, replace=size > len(self.photos))
        first = torch.stack([self._cut(int(i), rng) for i in chosen])
        second = torch.stack([self._cut(int(i), rng) for i in chosen])
        return augment(first, rng), augment(second, rng)

    def refresh_if_due(self, backbone: Backbone, plan: Plan, done: float) -> None:
        """Look for the objects anew with the network that is being trained, where that is due."""

        def last_stage(images: Tensor) -> Tensor:
            with plan.autocast():
                stage: Tensor = backbone(channels_last(images, plan.device))
            return stage

        if self.boxes.due(done):
            # As an observer: whole photos must not enter the statistics of its crops.
            backbone.eval()
            self.refresh(last_stage, done)
            backbone.train()

    @torch.no_grad()
    def refresh(self, last_stage: Callable[[Tensor], Tensor], done: float) -> None:
        """Look for the objects in every photo again.

        ``last_stage`` maps (N, 3, S, S) float RGB 0..255 to the last convolution's (N, C, h, w).
        """
        boxes = []
        starts = range(0, len(self.photos), HEAT_BATCH)
        for start in tqdm(starts, desc="object boxes", unit="batch", disable=None, leave=False):
            chunk = self.photos[start : start + HEAT_BATCH]
            images = torch.cat([shrink(photo, self.heat_side) for photo in chunk])
            heat = heat_map(last_stage(images), (self.heat_side, self.heat_side))
            boxes.append(object_boxes(heat).cpu())
        self.boxes.replace(torch.cat(boxes), done)

    def _cut(self, index: int, rng: np.random.Generator) -> Tensor:
        photo = self.photos[index]
        height, width = photo.shape[1:]
        crop = draw_crop(height, width, self.boxes.box(index), rng)
        part = photo[:, crop.top :, crop.left :][:, : crop.height, : crop.width]
        return shrink(part, self.side)[0]


def shrink(photo: Tensor, side: int) -> Tensor:
    """Resize uint8 (3, H, W) to (1, 3, side, side), float32, antialiased."""
    return F.interpolate(
        photo[None].float(), (side, side), mode="bilinear", align_corners=False, antialias=True
    )
