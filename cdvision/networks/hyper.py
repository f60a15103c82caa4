"""Hyper-latent: what a sender tells of its latents, and the means that both sides read from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.networks.context import split
from cdvision.networks.layers import ConvAct, zero_init


class Latents(NamedTuple):
    """What the encoder writes, before skipping and entropy coding; integers held in float32."""

    symbols: Tensor  # (N, C, h, w)
    hyper: Tensor  # (N, C_z, ceil(h/4), ceil(w/4)) in [-15, 15]


class HyperAnalysis(nn.Module):
    """Scaled latents to the hyper-latent at a quarter of their resolution."""

    def __init__(self, channels: int, hyper_channels: int, *, hidden: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvAct(2 * channels, hidden),
            ConvAct(hidden, hidden, 3, stride=2),
            ConvAct(hidden, hidden, 3, stride=2),
            last := nn.Conv2d(hidden, hyper_channels, 1),
        )
        # PyTorch's own start shrinks the values, layer by layer.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
        # Most values must not round to zero at the start: nothing would be told, nothing learned.
        nn.init.normal_(last.weight, std=0.6)

    def forward(self, y: Tensor) -> Tensor:
        """Map (N, C, h, w) to (N, C_z, ceil(h/4), ceil(w/4))."""
        # Logarithms, as the scales to be told are spread over decades.
        magnitude = torch.log1p(y.abs())
        z: Tensor = self.layers(torch.cat([magnitude, y.sign() * magnitude], dim=1))
        return z


class MeanNetwork(nn.Module):
    """Hyper-latent to the mean of every latent, x4 in resolution."""

    def __init__(self, hyper_channels: int, channels: int, *, hidden: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvAct(hyper_channels, 2 * hidden, 3),
            nn.Conv2d(2 * hidden, 16 * hidden, 1),
            nn.PixelShuffle(4),
            nn.LeakyReLU(0.1),
            zero_init(nn.Conv2d(hidden, channels, 1)),
        )

    def forward(self, z: Tensor, height: int, width: int) -> Tensor:
        """Map (N, C_z, ceil(height/4), ceil(width/4)) to means (N, C, height, width)."""
        mean: Tensor = self.layers[-1](self._hidden(z, height, width))
        return mean

    def phases(self, z: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        """Return the same means as four phases (N, C, height/2, width/2); see ``context.split``."""
        # Split where the map has few channels: a quarter of the values to move.
        parts = split(self._hidden(z, height, width))
        return tuple(self.layers[-1](part.contiguous()) for part in parts)

    def _hidden(self, z: Tensor, height: int, width: int) -> Tensor:
        hidden: Tensor = self.layers[:-1](z)
        return hidden[..., :height, :width]
