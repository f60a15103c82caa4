"""The published ImageNet networks as judges of pictures: their activations at several stages.

They are taken as published, not from a model of ours: a network that was trained beside a codec
is no judge of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.models.faces.trunks import MobileNetTrunk, ResNetTrunk
from cdvision.networks.initial_weights import MOBILENET_FILE
from cdvision.networks.resnet50v2 import WEIGHTS_FILE
from cdvision.package.loader import file_sha256

BLOCKS = (1, 3, 6, 13)  # of MobileNetV2: the last at 1/2, 1/4, 1/8 and 1/16


class Published(NamedTuple):
    """A network: what people call it, and its file of weights."""

    title: str
    file: str


NETWORKS = {
    "mobilenet_v2": Published("MobileNetV2", MOBILENET_FILE),
    "resnet50v2": Published("ResNet-50 v2", WEIGHTS_FILE),
}


class FeatureNetwork(nn.Module):
    """Pictures to the activations of a network that is never trained.

    Args:
        folder: that holds the published weights (``--initial-weights``).
        network: ``mobilenet_v2`` (blocks 1, 3, 6 and 13) or ``resnet50v2`` (stages 1 to 3).

    Raises:
        CdvisionError: no such network, or no weights of it in the folder.
    """

    def __init__(self, folder: Path, network: str = "mobilenet_v2") -> None:
        super().__init__()
        if network not in NETWORKS:
            raise CdvisionError(f"judge: expected one of {', '.join(NETWORKS)}, found {network!r}")
        self.title = NETWORKS[network].title
        weights = folder / NETWORKS[network].file
        if not weights.is_file():
            raise CdvisionError(f"{weights} is missing: expected the published {self.title} there")
        self.digest = file_sha256(weights)
        self.trunk = MobileNetTrunk(0) if network == "mobilenet_v2" else ResNetTrunk(0)
        self.trunk.load(folder)
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W), RGB 0..255, to the stages: (N, C, h, w) float32, fine to coarse."""
        if isinstance(self.trunk, MobileNetTrunk):
            return self.trunk.tapped(pictures, BLOCKS)
        return self.trunk.stages(pictures)


def pooled(stages: list[Tensor]) -> Tensor:
    """Return the means over the places of every stage as one vector a picture: (N, D)."""
    return torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1)
