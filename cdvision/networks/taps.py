"""Taps: the small networks from dequantised latents to the features that one tail expects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.networks.layers import ResidualBlock, expand_and_shuffle


class UpsamplingTap(nn.Module):
    """Latents at 1/16 to features at 1/8, cell for cell.

    ::

        y (C)@1/16 ─ residual blocks ─ 1x1 ─ shuffle x2 ─▶ features@1/8

    Everything nonlinear happens at 1/16, where a weight costs a quarter of what it costs at 1/8.
    """

    def __init__(self, channels: int, features: int, *, hidden: int = 160, blocks: int = 2) -> None:
        super().__init__()
        self.context = nn.Sequential(*(ResidualBlock(channels, hidden) for _ in range(blocks)))
        self.expand = nn.Conv2d(channels, 4 * features, 1)

    def forward(self, y: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, features, 2h, 2w)."""
        return expand_and_shuffle(self.expand, self.context(y), 2)


class ResamplingTap(nn.Module):
    """Latents at 1/16 to a square map of fixed size, through two resampling matrices.

    The matrices choose the window of the image and its magnification, so one dense graph serves
    every image size, crop and padding, and two products are all that an engine has to know.
    """

    def __init__(self, channels: int, features: int, *, hidden: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.context = ResidualBlock(channels, channels)
        self.expand = nn.Conv2d(channels, 4 * hidden, 1)
        self.refine = nn.Sequential(*(ResidualBlock(hidden, 2 * hidden) for _ in range(blocks)))
        self.project = nn.Conv2d(hidden, features, 1)

    def forward(self, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, features, side, side).

        Args:
            y: dequantised latents.
            rows: (N, side, 2h) weights of the source rows at 1/8.
            columns: (N, side, 2w) weights of the source columns at 1/8.
        """
        x = expand_and_shuffle(self.expand, self.context(y), 2)
        x = torch.matmul(rows[:, None], x)
        x = torch.matmul(x, columns[:, None].transpose(2, 3))
        features: Tensor = self.project(self.refine(x))
        return features
