"""Conv2Former block: attention by convolution, and the norms and weights that it starts from.

::

    x ─┬─ LN ─┬─ 1x1 ─ GELU ─ DW 11x11 ─ A ─┐
       │      └─ 1x1 ──────────────── V ─── x ─ 1x1 ─ gamma ─┐
       └─────────────────────────────────────────────────── + ─┬─ LN ─ MLP ─ gamma ─┐
                                                               └─────────────────── + ─▶

Source: Hou et al., "Conv2Former: A Simple Transformer-Style ConvNet for Visual Recognition",
2022, as DICM uses it (Tang, Yi, Wang, IEEE Trans. Broadcasting 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.layers import depthwise

LAYER_SCALE = 1e-6  # so small that a new residual block is all but the identity
WEIGHT_SPREAD = 0.02
EXPANSION = 4


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every position of (N, C, H, W), epsilon 1e-6."""

    def __init__(self, channels: int, *, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with mean 0 and spread 1 at every position, then scaled and shifted."""
        # Two transpositions and one fused kernel: engines need a third less time than for the
        # ten element-wise passes that leave the channels where they are.
        last = x.permute(0, 2, 3, 1)
        normal = F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.epsilon)
        return normal.permute(0, 3, 1, 2)


class LayerScale(nn.Module):
    """A factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (N, C, H, W)."""
        return x * self.weight[:, None, None]


class ConvolutionalModulation(nn.Module):
    """Values of a 1x1 convolution, weighted by what a 11x11 neighbourhood holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.GELU(), depthwise(channels, 11)
        )
        self.values = nn.Conv2d(channels, channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        modulated: Tensor = self.project(self.attention(x) * self.values(x))
        return modulated


class SpatialMlp(nn.Module):
    """Channel mixing with 4x expansion; a depth-wise 3x3 adds what the neighbours say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * channels
        self.expand = nn.Conv2d(channels, hidden, 1)
        self.position = depthwise(hidden, 3)
        self.activation = nn.GELU()
        self.project = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        hidden = self.activation(self.expand(x))
        # The depth-wise path adds to the hidden values: without it this is a plain MLP.
        mixed: Tensor = self.project(hidden + self.activation(self.position(hidden)))
        return mixed


class Conv2FormerBlock(nn.Module):
    """Modulation, then MLP, each on a normalised input and added through a layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.modulation = nn.Sequential(
            ChannelNorm(channels), ConvolutionalModulation(channels), LayerScale(channels)
        )
        self.mlp = nn.Sequential(ChannelNorm(channels), SpatialMlp(channels), LayerScale(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        x = x + self.modulation(x)
        refined: Tensor = x + self.mlp(x)
        return refined


class LayerChain(nn.Module):
    """A chain of layers whose weights begin as the paper's: drawn from N(0, 0.02), no bias."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.apply(_draw_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers on (N, C, H, W)."""
        out: Tensor = self.layers(x)
        return out


def _draw_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=WEIGHT_SPREAD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
