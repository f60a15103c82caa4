"""Detectron2's ResNet from res3 on, fed with features at the output of res2.

Parameters keep Detectron2's names, so its checkpoints fit; those of the stem and of res2 are left
out, because that part of the network runs where the stream is made.
"""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import ResNet, build_resnet_backbone
from torch import Tensor

FEATURE_STRIDE = 4
"""Pixels of the network input a cell of the features, at the output of res2."""

_SPLIT = "res2"


class StreamResNet(Backbone):  # type: ignore[misc]  # Detectron2 has no types
    """The stages after res2 of a ResNet; res2 itself is the input.

    Args:
        resnet: built by Detectron2; its later stages are taken over, not copied.
    """

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self._shapes = resnet.output_shape()
        self._later = [name for name in resnet.stage_names if name != _SPLIT]
        for name in self._later:
            self.add_module(name, getattr(resnet, name))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (N, C, h, w) features at stride 4 to the stages that the config asks for."""
        stages = {_SPLIT: features}
        for name in self._later:
            features = getattr(self, name)(features)
            stages[name] = features
        return {name: stages[name] for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of every stage that `forward` returns."""
        return dict(self._shapes)


def build_cdvision_resnet_backbone(cfg: Any, input_shape: ShapeSpec) -> StreamResNet:
    """Build the ResNet that a C4 or DC5 config describes, without its front."""
    return StreamResNet(build_resnet_backbone(cfg, input_shape))


def build_cdvision_resnet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> Backbone:
    """Build the FPN that a config describes, on a ResNet without its front."""
    pyramid = build_resnet_fpn_backbone(cfg, input_shape)
    pyramid.bottom_up = StreamResNet(pyramid.bottom_up)
    return pyramid


for _builder in (build_cdvision_resnet_backbone, build_cdvision_resnet_fpn_backbone):
    if _builder.__name__ not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(_builder)
