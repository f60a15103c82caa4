"""Takes a torchvision Faster or Mask R-CNN apart at its first stage: a peer for our detectors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from cdvision.heads.two_stage.network import TwoStageDetector

STEM, LAYERS = ("conv1", "bn1", "relu", "maxpool", "layer1"), ("layer2", "layer3", "layer4")


class SplitDetector(NamedTuple):
    """Pixels to layer1's features, these to the pyramid's stages, and the detector on them."""

    front: nn.Sequential
    tail: nn.Module
    detector: TwoStageDetector


class ResNetStages(nn.Module):
    """layer2 to layer4 of a ResNet, on the features of layer1."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        stages = [features]
        for layer in self.layers:
            stages.append(layer(stages[-1]))
        return tuple(stages)


def split_torchvision_detector(model: FasterRCNN) -> SplitDetector:
    """Return the parts of a detector with a ResNet and an FPN: its own modules, not copies."""
    body = model.backbone.body
    detector = TwoStageDetector(
        fpn=model.backbone.fpn, rpn=model.rpn, roi_heads=model.roi_heads, strides=[4, 8, 16, 32]
    )
    front = nn.Sequential(*(getattr(body, name) for name in STEM))
    tail = ResNetStages([getattr(body, name) for name in LAYERS])
    return SplitDetector(front.eval(), tail.eval(), detector.eval())
