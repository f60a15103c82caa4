"""A two-stage detector that reads backbone stages instead of pixels.

The parts are torchvision's own, so their losses, samplers and box coders apply unchanged::

    stages (256@1/4 … 2048@1/32) ─ FPN ─┬─ RPN head ─ proposals ─┐
                                        └────── RoIAlign 7x7 ────┴─ box head ─ boxes, classes
                                        └────── RoIAlign 14x14 of these boxes ─ mask head ─ masks

Everything here that chooses (`losses`, `detect`) runs in PyTorch; an engine runs the dense parts
(see ``graphs.py``) and `cdvision.heads.two_stage` chooses in numpy, with equal results.

Source: Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks", CVPR
2017; He et al., "Mask R-CNN", ICCV 2017.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from cdvision.errors import ModelError
from cdvision.heads.two_stage.config import TwoStageConfig
from cdvision.heads.two_stage.network_parts import proposal_network, two_stage_heads

ImageSize = tuple[int, int]


class TwoStageDetector(nn.Module):
    """FPN, region proposals and RoI heads on the stages of a backbone.

    The pyramid's maps are named "0", "1", … and there may be an extra coarser one. Each stage has
    a stride in pixels of the network input, a power of two, finest first. Sizes of images are
    (height, width) in this class, as everywhere in torchvision.
    """

    def __init__(
        self,
        *,
        fpn: FeaturePyramidNetwork,
        rpn: RegionProposalNetwork,
        roi_heads: RoIHeads,
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.fpn, self.rpn, self.roi_heads = fpn, rpn, roi_heads
        self.strides = tuple(strides)
        # torchvision guesses the strides from the first image it sees, padding left out: a small
        # photo in a large input would be pooled from the wrong cells ever after.
        for pool in (roi_heads.box_roi_pool, roi_heads.mask_roi_pool):
            if pool is not None:
                _fix_scales(pool, self.strides)

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask head."""
        return bool(self.roi_heads.has_mask())

    @property
    def config(self) -> TwoStageConfig:
        """Everything that the numpy selection has to know of this detector."""
        anchors, pool = self.rpn.anchor_generator, self.roi_heads.box_roi_pool
        return TwoStageConfig(
            strides=self.strides,
            anchor_sizes=tuple(tuple(map(float, level)) for level in anchors.sizes),
            aspect_ratios=tuple(tuple(map(float, level)) for level in anchors.aspect_ratios),
            proposals_per_level=self.rpn._pre_nms_top_n["testing"],
            proposals=self.rpn._post_nms_top_n["testing"],
            proposal_iou=self.rpn.nms_thresh,
            proposal_score=self.rpn.score_thresh,
            box_weights=tuple(map(float, self.roi_heads.box_coder.weights)),
            samples=pool.sampling_ratio,
            masks=self.has_masks,
        )

    def pyramid(self, stages: Sequence[Tensor]) -> OrderedDict[str, Tensor]:
        """Map backbone stages, (N, channels, h, w) each, to the levels of the pyramid by name."""
        if len(stages) != len(self.strides):
            raise ModelError(
                f"two-stage detector: expected {len(self.strides)} stages (strides "
                f"{self.strides}), found {len(stages)}; pass the stages it was built for"
            )
        named = OrderedDict((str(number), stage) for number, stage in enumerate(stages))
        return OrderedDict(self.fpn(named))


def build_two_stage_detector(
    *,
    classes: int,
    channels: Sequence[int] = (256, 512, 1024, 2048),
    strides: Sequence[int] = (4, 8, 16, 32),
    out_channels: int = 256,
    representation: int = 1024,
    mask_channels: Sequence[int] | None = (256, 256, 256, 256),
    extra_level: bool = True,
    anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
    proposals_per_level: int = 1000,
    proposals: int = 1000,
    **settings: Any,
) -> TwoStageDetector:
    """Build a detector with fresh weights.

    >>> detector = build_two_stage_detector(
    ...     classes=20, out_channels=128, representation=512, mask_channels=(128, 128)
    ... )
    >>> detector.config.strides, detector.has_masks
    ((4, 8, 16, 32), True)

    ``classes`` do not count the background. Stages, finest first, have ``channels`` and
    ``strides``, every pyramid level has ``out_channels``. Most weights are in the two layers of
    the box head, of width ``representation``. ``mask_channels`` are the widths of the mask head's
    3x3 convolutions; None for no masks. The extra level is max-pooled, for large objects, and only
    the proposals use it. Numbers of proposals, before and after suppression, hold at inference;
    they are 2000 when training. ``settings`` go to torchvision's `RoIHeads`.

    Raises:
        ModelError: numbers of channels, strides and anchor sizes do not fit together.
    """
    levels = len(strides) + extra_level
    if len(channels) != len(strides) or len(anchor_sizes) != levels:
        raise ModelError(
            f"two-stage detector: expected as many channels as strides ({len(strides)}) and one "
            f"anchor size for each of {levels} levels, found {len(channels)} and "
            f"{len(anchor_sizes)}"
        )
    return TwoStageDetector(
        fpn=FeaturePyramidNetwork(
            list(channels), out_channels, LastLevelMaxPool() if extra_level else None
        ),
        rpn=proposal_network(out_channels, anchor_sizes, proposals_per_level, proposals),
        roi_heads=two_stage_heads(
            classes + 1, len(strides), out_channels, representation, mask_channels, settings
        ),
        strides=strides,
    )


def _fix_scales(pool: MultiScaleRoIAlign, strides: Sequence[int]) -> None:
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = LevelMapper(
        int(math.log2(strides[0])),
        int(math.log2(strides[-1])),
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
    )
