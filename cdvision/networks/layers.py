"""Layers that several networks are built of."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvAct(nn.Sequential):
    """Convolution with bias, then LeakyReLU(0.1): (N, C, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(
        self, channels: int, out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1
    ) -> None:
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups)
        super().__init__(conv, nn.LeakyReLU(0.1))

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution."""
        return cast(nn.Conv2d, self[0])

    @property
    def activation(self) -> nn.Module:
        """What follows it."""
        return self[1]


def depthwise(channels: int, kernel: int, *, stride: int = 1) -> nn.Conv2d:
    """Depth-wise convolution with bias, "same" padding and no activation."""
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels)


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Zero a convolution, so that the residual path it closes starts as the identity."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ResidualBlock(nn.Module):
    """Light residual block, shape-preserving: depth-wise 5x5, then 1x1 -> LeakyReLU -> 1x1."""

    def __init__(self, channels: int, hidden: int, kernel: int = 5) -> None:
        super().__init__()
        self.spatial = depthwise(channels, kernel)
        self.expand = ConvAct(channels, hidden)
        self.project = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its refinement."""
        residual: Tensor = self.project(self.expand(self.spatial(x)))
        return x + residual


def expand_and_shuffle(conv: nn.Conv2d, x: Tensor, factor: int) -> Tensor:
    """Return ``pixel_shuffle(conv(x), factor)`` of a 1x1 convolution, without the shuffle.

    An engine shuffles element by element, which takes it as long as the product itself.
    """
    # One transposed convolution does both. Its bias could not differ between the places of a
    # cell, so ours enters as the weights of a channel of ones.
    weight = torch.cat([conv.weight.flatten(1), cast(Tensor, conv.bias)[:, None]], dim=1)
    kernel = weight.view(-1, factor, factor, weight.shape[1]).permute(3, 0, 1, 2)
    with_ones = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    return F.conv_transpose2d(with_ones, kernel, stride=factor)


def channel_shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels (ShuffleNetV2): (N, C, H, W) -> the same shape."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Normalise(nn.Module):
    """RGB values in 0..255 to the zero-mean, unit-spread input of a network."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], scale: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Normalise (N, 3, H, W) float RGB in 0..255."""
        return (image - self.mean) * self.scale
