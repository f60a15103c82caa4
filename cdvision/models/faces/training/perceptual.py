"""Perceptual distance on the published ImageNet networks.

Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
CVPR 2018, without its learned channel weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.models.faces.trunks import TRUNK_CLASSES, MobileNetTrunk

NETWORKS = ("mobilenet_v2", "resnet50v2")
BLOCKS = (1, 3, 6, 13)  # of MobileNetV2: the last at 1/2, 1/4, 1/8 and 1/16


class PerceptualLoss(nn.Module):
    """Distance of unit-length features, meaned over places and summed over stages.

    ``folder`` holds the networks' weights; None: random ones, for trials without them.
    """

    def __init__(self, folder: Path | None, network: str = "mobilenet_v2") -> None:
        super().__init__()
        if network not in NETWORKS:
            raise CdvisionError(f"perceptual network must be one of {NETWORKS}, found {network!r}")
        self.trunk = TRUNK_CLASSES[network](0)
        if folder is not None:
            self.trunk.load(folder)
        self.requires_grad_(False).eval()

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return one distance of two batches (N, 3, R, R), both in -1..1."""
        # The original is no variable: nothing need be kept for its gradients.
        with torch.no_grad():
            targets = self._features(wanted)
        pairs = zip(self._features(found), targets, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()

    def _features(self, image: Tensor) -> list[Tensor]:
        image = (image + 1) * 127.5
        if isinstance(self.trunk, MobileNetTrunk):
            stages = self.trunk.stages(image, BLOCKS)
        else:
            stages = self.trunk.stages(image)
        # Of unit length: what is there counts, not how loud a channel is.
        return [F.normalize(stage.float(), dim=1, eps=1e-4) for stage in stages]
