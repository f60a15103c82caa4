"""Takes a torchvision Faster or Mask R-CNN apart at its first stage, weights and all.

So any such detector runs from features: its front feeds a codec, or whatever stands in for one, and
its tail and heads read what comes out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from cdvision.errors import ModelError
from cdvision.heads.two_stage.config import BOX_CELLS, MASK_CELLS
from cdvision.heads.two_stage.network import TwoStageDetector

_STEM, _LAYERS = ("conv1", "bn1", "relu", "maxpool"), ("layer1", "layer2", "layer3", "layer4")
_CANONICAL = (224, 4)  # of equation 1 of the FPN paper, which the numpy selection has built in


class SplitDetector(NamedTuple):
    """A detector in three parts, which share the weights of the model they came from.

    Attributes:
        front: (N, 3, H, W) normalised pixels to (N, 256, H/4, W/4) features.
        tail: these features to the stages that the detector reads.
        detector: pyramid, proposals and heads.
    """

    front: nn.Sequential
    tail: ResNetStages
    detector: TwoStageDetector


class ResNetStages(nn.Module):
    """layer2 to layer4 of a ResNet on the features of layer1.

    Args:
        layers: layer2 onwards.
        taken: which stages are returned, 1 being the input itself.
    """

    def __init__(self, layers: list[nn.Module], taken: tuple[int, ...]) -> None:
        super().__init__()
        self.layers, self.taken = nn.ModuleList(layers), taken

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map (N, C, h, w) to the stages that are taken, finest first."""
        stages = [features]
        for layer in self.layers:
            stages.append(layer(stages[-1]))
        return tuple(stages[number - 1] for number in self.taken)


def split_torchvision_detector(model: FasterRCNN) -> SplitDetector:
    """Split a torchvision Faster or Mask R-CNN with a ResNet and an FPN.

    Args:
        model: such as ``maskrcnn_resnet50_fpn(...)``; the parts are its own modules, not copies.

    Raises:
        ModelError: another kind of detector or of backbone.
    """
    body: Any = getattr(model.backbone, "body", None)
    fpn = getattr(model.backbone, "fpn", None)
    if not isinstance(model, FasterRCNN) or fpn is None or not hasattr(body, "layer1"):
        raise ModelError(
            f"expected a torchvision Faster or Mask R-CNN with a ResNet and an FPN, found "
            f"{type(model).__name__} on {type(body or model.backbone).__name__}"
        )
    _check_selection(model)
    present = [name for name in _LAYERS if hasattr(body, name)]
    taken = tuple(1 + _LAYERS.index(name) for name in body.return_layers)
    strides = [2 ** (1 + number) for number in taken]
    front = nn.Sequential(*(getattr(body, name) for name in (*_STEM, "layer1")))
    tail = ResNetStages([getattr(body, name) for name in present[1:]], taken)
    detector = TwoStageDetector(fpn=fpn, rpn=model.rpn, roi_heads=model.roi_heads, strides=strides)
    mode = model.training
    return SplitDetector(front.train(mode), tail.train(mode), detector.train(mode))


def _check_selection(model: FasterRCNN) -> None:
    """Refuse what the numpy selection would compute differently."""
    heads = model.roi_heads
    for pool, cells in ((heads.box_roi_pool, BOX_CELLS), (heads.mask_roi_pool, MASK_CELLS)):
        if pool is not None:
            found = (pool.output_size, pool.canonical_scale, pool.canonical_level)
            _require("RoI pooling", ((cells, cells), *_CANONICAL), found)
            _require("RoI sampling", True, pool.sampling_ratio > 0)
    limit = math.log(1000.0 / 16)
    _require("largest box delta", limit, heads.box_coder.bbox_xform_clip)
    _require("anchors", AnchorGenerator, type(model.rpn.anchor_generator))


def _require(what: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise ModelError(f"detector: {what}: expected {expected}, found {found}")
