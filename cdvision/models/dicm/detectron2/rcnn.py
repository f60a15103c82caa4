"""Detectron2's Faster and Mask R-CNN on features: everything but the first step is its own."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList

from cdvision.models.dicm.detectron2.backbone import FEATURE_STRIDE


class CdvisionRCNN(GeneralizedRCNN):  # type: ignore[misc]  # Detectron2 has no types
    """GeneralizedRCNN whose inputs hold ``features`` and ``image_size`` instead of ``image``.

    Every input is a dict as `stream_inputs` makes it: ``features`` (C, h, w) float32 at stride 4,
    ``image_size`` (height, width) of the photo inside the network input, which bounds the boxes,
    ``height`` and ``width`` of the source, to which they are scaled, and ``instances`` to train.
    """

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Batch the features; sizes are those of the photos, in pixels of the network input."""
        features = [self._move_to_current_device(item["features"]) for item in batched_inputs]
        cells = max(self.backbone.size_divisibility // FEATURE_STRIDE, 1)
        padded = ImageList.from_tensors(features, cells)
        sizes = [(int(height), int(width)) for height, width in _image_sizes(batched_inputs)]
        return ImageList(padded.tensor, sizes)


def _image_sizes(batched_inputs: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [item["image_size"] for item in batched_inputs]


if "CdvisionRCNN" not in META_ARCH_REGISTRY:
    META_ARCH_REGISTRY.register(CdvisionRCNN)
