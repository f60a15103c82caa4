"""A backbone of a few thousand weights with the contract of ResNet-50's: for tests of packages."""

from __future__ import annotations

from torch import Tensor, nn

from cdvision.models.dicm.widths import TINY

STAGE_CHANNELS = (TINY.features, 24, 32)


class TinyFront(nn.Module):
    """Pixels (N, 3, H, W), RGB 0..255, to features (N, 16, H/4, W/4), >= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, STAGE_CHANNELS[0], 4, 4)
        self.activation = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        """Run the front."""
        features: Tensor = self.activation(self.conv(image / 64 - 2))
        return features


class TinyTail(nn.Module):
    """Features at 1/4 to stages at 1/8 and 1/16."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.stage2 = nn.Sequential(nn.Conv2d(first, second, 3, 2, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(second, third, 3, 2, 1), nn.ReLU())

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 16, 4h, 4w) to (N, 24, 2h, 2w) and (N, 32, h, w)."""
        middle = self.stage2(features)
        return middle, self.stage3(middle)
