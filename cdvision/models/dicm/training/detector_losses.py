"""torchvision's Mask R-CNN losses where only some objects have a mask.

VOC has boxes on every object and masks on four in ten. torchvision's own loss would teach that
the others are empty, so the mask loss here leaves them out; all else is torchvision's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss

from cdvision.heads.two_stage.network import TwoStageDetector


def detector_losses(
    detector: TwoStageDetector,
    stages: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    targets: Sequence[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return the losses of proposals, classes, boxes and (for a detector with masks) masks.

    Arguments are those of `TwoStageDetector.losses`; targets have ``masked`` (n,) bool, too: which
    objects have a mask.
    """
    levels, wanted = detector.pyramid(stages), list(targets)
    batch, _, rows, columns = stages[0].shape
    shape = batch, 3, rows * detector.strides[0], columns * detector.strides[0]
    # Only the shape of the pixels is read, so one zero stands in for all of them.
    images = ImageList(stages[0].new_zeros(1).expand(shape), list(sizes))
    proposals, losses = detector.rpn(images, levels, wanted)
    heads = detector.roi_heads
    proposals, matched, labels, regression = heads.select_training_samples(proposals, wanted)
    pooled = heads.box_roi_pool(levels, proposals, images.image_sizes)
    logits, boxes = heads.box_predictor(heads.box_head(pooled))
    classes, box = fastrcnn_loss(logits, boxes, labels, regression)
    losses = {**losses, "loss_classifier": classes, "loss_box_reg": box}
    if not detector.has_masks:
        return losses
    # Only samples of objects whose mask is known; a photo without objects has none to match.
    chosen = [
        torch.where((label > 0) & target["masked"][match])[0]
        if len(target["masked"])
        else label.new_zeros(0)
        for label, match, target in zip(labels, matched, wanted, strict=True)
    ]
    places = [boxes[rows] for boxes, rows in zip(proposals, chosen, strict=True)]
    pooled = heads.mask_roi_pool(levels, places, images.image_sizes)
    losses["loss_mask"] = maskrcnn_loss(
        heads.mask_predictor(heads.mask_head(pooled)).float(),
        places,
        [target["masks"] for target in wanted],
        [target["labels"] for target in wanted],
        [match[rows] for match, rows in zip(matched, chosen, strict=True)],
    )
    return losses


def keep_boxes_exact(detector: TwoStageDetector) -> None:
    """Let the dense parts give float32, so that bfloat16 autocast rounds no coordinate."""
    # torchvision makes anchors and boxes in the precision of the maps, and bfloat16 holds pixels
    # above 256 to the nearest even number only.
    for part in (detector.fpn, detector.rpn.head, detector.roi_heads.box_predictor):
        part.register_forward_hook(_as_float)


def _as_float(module: nn.Module, inputs: object, output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return type(output)((name, value.float()) for name, value in output.items())
    return type(output)(_as_float(module, inputs, value) for value in output)
