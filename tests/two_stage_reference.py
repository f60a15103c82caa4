"""Torchvision's own losses and answers of a two-stage detector: what ours are held against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from cdvision.heads.two_stage.network import TwoStageDetector

ImageSize = tuple[int, int]


def reference_losses(
    detector: TwoStageDetector,
    stages: Sequence[Tensor],
    image_sizes: Sequence[ImageSize],
    targets: Sequence[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return the losses by name; sizes are (height, width) of the content of the input."""
    levels, images = detector.pyramid(stages), image_list(detector, stages, image_sizes)
    proposals, first = detector.rpn(images, levels, [*targets])
    _, second = detector.roi_heads(levels, proposals, images.image_sizes, [*targets])
    return {**first, **second}


def reference_boxes(
    detector: TwoStageDetector, stages: Sequence[Tensor], image_sizes: Sequence[ImageSize]
) -> list[dict[str, Tensor]]:
    """Return the answers before torchvision scales them to the source image."""
    levels, images = detector.pyramid(stages), image_list(detector, stages, image_sizes)
    proposals, _ = detector.rpn(images, levels)
    found, _ = detector.roi_heads(levels, proposals, images.image_sizes)
    return list(found)


def image_list(
    detector: TwoStageDetector, stages: Sequence[Tensor], image_sizes: Sequence[ImageSize]
) -> ImageList:
    """Stand in for the pixels: only their shape is read, so one zero is enough."""
    batch, _, rows, columns = stages[0].shape
    shape = (batch, 3, rows * detector.strides[0], columns * detector.strides[0])
    return ImageList(stages[0].new_zeros(1).expand(shape), [(h, w) for h, w in image_sizes])
