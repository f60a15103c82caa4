"""The network that features are meant for, on pixels, and how far other features are from its."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from cdvision.models.dicm.training.stage_errors import FLOOR
from cdvision.networks.resnet50_msra import MEAN
from cdvision.training.protocols import lay_out, stages_of

MULTIPLE = 32  # pixels: Detectron2 pads photos to it
LONGEST = 1333  # pixels of the long side at most, as in Detectron2's configs
Size = tuple[int, int]


def zoo_size(photo: Size, short: int) -> Size:
    """Return (width, height) at which models of the zoo see a photo of (width, height).

    >>> zoo_size((640, 480), 800)
    (1067, 800)
    """
    scale = min(short / min(photo), LONGEST / max(photo))
    width, height = (int(side * scale + 0.5) for side in photo)
    return width, height


class TrueNetwork:
    """Front and tail, frozen: photos to res2, res3 and res4."""

    def __init__(self, front: nn.Module, tail: nn.Module) -> None:
        cpu = torch.device("cpu")
        self.front, self.tail = (lay_out(part, cpu).eval() for part in (front, tail))

    @torch.inference_mode()
    def stages_of_photo(self, photo: Image, size: Size) -> list[Tensor]:
        """Return the stages of a photo, resampled to (width, height) and padded as the zoo does."""
        resized = photo.resize(size, Resampling.BILINEAR)
        width, height = (-(-side // MULTIPLE) * MULTIPLE for side in size)
        # Padding is zero behind the subtraction of the mean.
        pixels = np.broadcast_to(np.array(MEAN, np.float32), (height, width, 3)).copy()
        pixels[: size[1], : size[0]] = np.asarray(resized)
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
        return self._stages(self.front(image.to(memory_format=torch.channels_last)))

    @torch.inference_mode()
    def stages_of_features(self, features: NDArray[np.float32]) -> list[Tensor]:
        """Return the stages of decoded features (256, h, w)."""
        found = torch.from_numpy(features)[None]
        return self._stages(found.contiguous(memory_format=torch.channels_last))

    def _stages(self, features: Tensor) -> list[Tensor]:
        return [features, *stages_of(self.tail, features)]


class ErrorSums:
    """Errors of stages over many photos, in units of each channel's variance over all of them."""

    def __init__(self) -> None:
        self._errors: list[Tensor] = []
        self._moments: list[Tensor] = []

    def add(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
        """Add one photo's stages, each (1, C, h, w)."""
        errors, moments = [], []
        for mine, theirs in zip(found, wanted, strict=True):
            cells = theirs.double().flatten(2)[0]
            errors.append((mine.double() - theirs.double()).square().sum((0, 2, 3)))
            count = torch.full_like(cells[:, 0], cells.shape[1])
            moments.append(torch.stack([count, cells.sum(1), cells.square().sum(1)]))
        if not self._errors:
            self._errors, self._moments = errors, moments
            return
        for sums, new in ((self._errors, errors), (self._moments, moments)):
            for total, part in zip(sums, new, strict=True):
                total += part

    def values(self) -> list[float]:
        """Return the error of each stage: 0 is exact, 1 what the mean of each channel has."""
        found = []
        for error, (count, first, second) in zip(self._errors, self._moments, strict=True):
            variance = second / count - (first / count).square()
            # The same floor as in training: channels that hardly ever fire.
            found.append(float((error / count / (variance + FLOOR * variance.mean())).mean()))
        return found
