"""HorNet blocks: recursive gated convolution, with a depth-wise or a global-local filter.

::

    x ─ LN ─ gnConv ─ gamma ─ + ─ LN ─ 1x1 ─ GELU ─ 1x1 ─ gamma ─ + ─▶

    gnConv of order n, widths d_k = d / 2^(n-1-k):
    1x1 d→2d ─┬─ p (d_0) ────────────── x ─ 1x1 ─ x ─ ... ─ 1x1 ─ x ─ 1x1 d→d ─▶
              └─ filter, 1/3 ─ q_0, q_1, ... ┘ ────── ┘ ───────── ┘

Source: Rao et al., "HorNet: Efficient High-Order Spatial Interactions with Recursive Gated
Convolutions", NeurIPS 2022, as DICM uses it (Tang, Yi, Wang, IEEE Trans. Broadcasting 2025).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from cdvision.models.dicm.conv2former import EXPANSION, ChannelNorm, LayerScale
from cdvision.networks.layers import depthwise

Spatial = Literal["filter", "depthwise"]
FILTER_SCALE = 1 / 3  # of the filter, before it gates: the published one
SPECTRUM = (24, 13)  # rows and columns of the learned map: the half spectrum of a 24 x 24 map


class GlobalLocalFilter(nn.Module):
    """Half the channels through a depth-wise 3x3, half through a filter of the whole map.

    ONNX knows complex numbers too poorly to export it; "depthwise" blocks do without.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.norm_in, self.norm_out = ChannelNorm(channels), ChannelNorm(channels)
        self.local = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.spectrum = nn.Parameter(0.02 * torch.randn(half, *SPECTRUM, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W), C even, to the same shape."""
        near, far = self.norm_in(x).chunk(2, dim=1)
        mixed = torch.stack([self.local(near), self._filter(far)], dim=2)
        # One channel of each half in turn, as published.
        filtered: Tensor = self.norm_out(mixed.flatten(1, 2))
        return filtered

    def _filter(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        # Half precision has no transform of sizes that are not powers of two.
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        learned = self.spectrum.float().permute(3, 0, 1, 2)  # real and imaginary as a batch
        # Corners stay at the lowest and the highest frequency at any size: one filter, in units of
        # the map's size.
        size = spectrum.shape[2:]
        real, imaginary = F.interpolate(learned, size, mode="bilinear", align_corners=True)
        spectrum = spectrum * torch.complex(real, imaginary)
        filtered: Tensor = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
        return filtered.to(x.dtype)


class GatedConvolution(nn.Module):
    """Recursive gated convolution (gnConv): products of up to ``order`` neighbourhoods."""

    def __init__(self, channels: int, order: int, *, spatial: Spatial) -> None:
        super().__init__()
        # Each order has twice the channels of the one before, the last one all of them.
        self.ladder = tuple(channels // 2 ** (order - 1 - k) for k in range(order))
        total = sum(self.ladder)
        self.project_in = nn.Conv2d(channels, 2 * channels, 1)
        self.spatial = GlobalLocalFilter(total) if spatial == "filter" else depthwise(total, 7)
        self.climb = nn.ModuleList(nn.Conv2d(low, high, 1) for low, high in pairwise(self.ladder))
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, d, H, W) to the same shape."""
        p, q = self.project_in(x).split((self.ladder[0], sum(self.ladder)), dim=1)
        # All orders share one filter: each takes its own channels of what comes out.
        gates = (FILTER_SCALE * self.spatial(q)).split(self.ladder, dim=1)
        p = p * gates[0]
        for climb, gate in zip(self.climb, gates[1:], strict=True):
            p = climb(p) * gate
        out: Tensor = self.project_out(p)
        return out


class HorNetBlock(nn.Module):
    """gnConv, then MLP, each on a normalised input and added through a layer scale.

    Args:
        channels: width.
        order: of the gated convolution.
        spatial: "filter" for the global-local filter, "depthwise" for a depth-wise 7x7.
        drop: probability that training leaves a branch of an image out.
    """

    def __init__(
        self, channels: int, order: int, *, spatial: Spatial = "depthwise", drop: float = 0.0
    ) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        mlp = (nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))
        self.gated = nn.Sequential(
            ChannelNorm(channels),
            GatedConvolution(channels, order, spatial=spatial),
            LayerScale(channels),
        )
        self.mlp = nn.Sequential(ChannelNorm(channels), *mlp, LayerScale(channels))
        self.drop = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x = x + self.drop(self.gated(x))
        refined: Tensor = x + self.drop(self.mlp(x))
        return refined
