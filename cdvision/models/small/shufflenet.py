"""ShuffleNetV2 1.0x stages with LeakyReLU, BatchNorm folded into the convolutions.

Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
ECCV 2018. The stages are those of NanoDet-Plus-m: 116, 232 and 464 channels at 1/8, 1/16, 1/32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.networks.layers import ConvAct, channel_shuffle, depthwise


class DownUnit(nn.Module):
    """Stride-2 unit, both branches convolved: (N, C, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.left = nn.Sequential(depthwise(channels, 3, stride=2), ConvAct(channels, half))
        self.right = nn.Sequential(
            ConvAct(channels, half), depthwise(half, 3, stride=2), ConvAct(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution."""
        return channel_shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


class Unit(nn.Module):
    """Stride-1 unit: half of the channels pass, the other half is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(ConvAct(half, half), depthwise(half, 3), ConvAct(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """Refine (N, C, H, W)."""
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([left, self.right(right)], dim=1))


class Stage(nn.Sequential):
    """One stride-2 unit and ``repeats`` stride-1 units."""

    def __init__(self, channels: int, out: int, repeats: int) -> None:
        super().__init__(DownUnit(channels, out), *(Unit(out) for _ in range(repeats)))
