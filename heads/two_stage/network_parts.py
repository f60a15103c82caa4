"""The trainable parts of a two-stage detector, made of torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS

_RATIOS = (0.5, 1.0, 2.0)
_SAMPLES = 2  # in RoIAlign, a side of a cell


def proposal_network(
    channels: int, anchor_sizes: Sequence[float], before: int, after: int
) -> RegionProposalNetwork:
    """Build the network that proposes regions, with the settings of the papers.

    There is one anchor size a level; ``before`` proposals of a level, ``after`` of all levels, are
    left before and after suppression at inference.
    """
    anchors = AnchorGenerator(tuple((s,) for s in anchor_sizes), (_RATIOS,) * len(anchor_sizes))
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, len(_RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2000, "testing": before},
        post_nms_top_n={"training": 2000, "testing": after},
        nms_thresh=0.7,
    )


def two_stage_heads(
    outputs: int,
    levels: int,
    channels: int,
    representation: int,
    mask_channels: Sequence[int] | None,
    settings: dict[str, Any],
) -> RoIHeads:
    """Build the box head and perhaps the mask head, with the settings of the papers.

    Arguments are those of `build_two_stage_detector`, but ``outputs`` counts the background, and
    ``levels`` are those that regions are pooled from.
    """
    names = [str(number) for number in range(levels)]
    heads = RoIHeads(
        MultiScaleRoIAlign(names, BOX_CELLS, _SAMPLES),
        TwoMLPHead(channels * BOX_CELLS**2, representation),
        FastRCNNPredictor(representation, outputs),
        **{
            "fg_iou_thresh": 0.5,
            "bg_iou_thresh": 0.5,
            "batch_size_per_image": 512,
            "positive_fraction": 0.25,
            "bbox_reg_weights": None,
            "score_thresh": 0.05,
            "nms_thresh": 0.5,
            "detections_per_img": 100,
            **settings,
        },
    )
    if mask_channels is not None:
        heads.mask_roi_pool = MultiScaleRoIAlign(names, MASK_CELLS, _SAMPLES)
        heads.mask_head = MaskRCNNHeads(channels, mask_channels, 1)
        heads.mask_predictor = MaskRCNNPredictor(mask_channels[-1], mask_channels[-1], outputs)
    return heads
