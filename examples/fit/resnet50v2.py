"""ResNet-50 v2 up to stage 3, as a factory for `cdvision fit --network`.

Its ``stage2`` ends as the published network's does: with a sum, which the next stage's BatchNorm
and ReLU read. Such a sum is easier to predict than what a ReLU leaves of it.

    cdvision fit --network examples/fit/resnet50v2.py:resnet50v2 --split stage2 \
        --weights resnet50v2_stages123.safetensors --mean 0 --std 1 --range 255 \
        --images photos/ -o my-tap

The network normalises its input itself, hence the mean of 0 and the white of 255.
"""

from __future__ import annotations

from torch import Tensor, nn

from cdvision.networks.resnet50v2 import load_resnet50v2


class ResNet50V2(nn.Module):
    """Pixels to the features of stage 3."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.front, tail = load_resnet50v2(weights)
        *units, activation = tail.stage2
        self.stage2, self.activation2 = nn.Sequential(*units), activation
        self.stage3 = tail.stage3

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to (N, 1024, H/16, W/16)."""
        features: Tensor = self.stage3(self.activation2(self.stage2(self.front(image))))
        return features


def resnet50v2(weights: str) -> nn.Module:
    """Build the network; ``cdvision fit`` passes what stands behind --weights."""
    return ResNet50V2(weights)
