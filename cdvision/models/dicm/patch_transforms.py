"""The networks of `dicm-light`: patches of pixels to latents and back, and a correction of res2.

::

    RGB ─┬─ linear: 16x16 patches ─────────────────────── + ─▶ y (C)@1/16
         └─ 8x8/4 ─ 3x3/2 ─ 3x3/2 ─ residual blocks ─ 0 ─┘

    y ─┬─ linear: back to 16x16 patches ─────────┬─ + ─▶ RGB
       └─ residual blocks ─ 1/8 ─ 1/4 ─ refine ◀─┘  │
                                     └───────── 0 ──┘

    res2 of the decoded photo ─ squeeze ─ residual blocks ─ 0 ─ + ─▶ res2

The linear paths begin as principal components of patches, the others as zeros (0): the start is a
codec already, and training only makes it better.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.fitted_tap import WideBlock
from cdvision.networks.layers import ConvAct, ResidualBlock, zero_init
from cdvision.networks.scales import QUALITIES

PATCH = 16  # pixels across
UNIT = 64.0  # grey levels that count as 1 inside the networks
MIDDLE = (123.675, 116.28, 103.53)  # RGB, as Detectron2's models subtract it
SUBPIXELS = 4  # pixels across a cell of the refining branch


class QualityBias(nn.Module):
    """A bias for each quality and channel: the coarser a stream, the less is to be believed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(QUALITIES, channels))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """Add the biases of qualities (N,), 0 to 7, to (N, channels, h, w)."""
        return x + self.bias[quality][:, :, None, None]


class PixelScale(nn.Module):
    """RGB 0..255 to units of the networks, and back."""

    middle: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("middle", torch.tensor(MIDDLE).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) in 0..255 to units."""
        return (image - self.middle) / UNIT

    def pixels(self, units: Tensor) -> Tensor:
        """Undo ``forward``; values stay inside 0..255."""
        return (units * UNIT + self.middle).clamp(0, 255)


class PatchAnalysis(nn.Module):
    """Pixels in units (N, 3, 16h, 16w) to latents (N, channels, h, w)."""

    def __init__(self, channels: int, *, width: int = 48, blocks: int = 2) -> None:
        super().__init__()
        self.linear = nn.Conv2d(3, channels, PATCH, PATCH)
        deep = 4 * width
        self.branch = nn.Sequential(
            nn.Conv2d(3, width, 8, 4, 2),
            nn.LeakyReLU(0.1),
            ConvAct(width, 2 * width, 3, stride=2),
            ConvAct(2 * width, deep, 3, stride=2),
            *(ResidualBlock(deep, 2 * deep) for _ in range(blocks)),
            zero_init(nn.Conv2d(deep, channels, 1)),
        )

    def forward(self, units: Tensor) -> Tensor:
        """Add both paths."""
        y: Tensor = self.linear(units) + self.branch(units)
        return y


class PatchSynthesis(nn.Module):
    """Latents (N, channels, h, w) and qualities (N,) to pixels in units (N, 3, 16h, 16w)."""

    def __init__(self, channels: int, *, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.linear = nn.ConvTranspose2d(channels, 3, PATCH, PATCH)
        self.quality, self.refine_quality = QualityBias(channels), QualityBias(width)
        self.coarse = nn.Sequential(*(ResidualBlock(channels, 2 * channels) for _ in range(blocks)))
        self.to_middle = nn.Conv2d(channels, 4 * 2 * width, 1)
        self.middle = _wide_blocks(2 * width, blocks)
        self.to_fine = nn.Conv2d(2 * width, 4 * width, 1)
        cell = 3 * SUBPIXELS**2
        self.join = nn.Conv2d(width + cell, width, 3, padding=1)
        self.fine = _wide_blocks(width, blocks)
        self.last = zero_init(nn.Conv2d(width, cell, 3, padding=1))

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """Add both paths."""
        return self.refine(self.linear(y), y, quality)

    def refine(self, linear: Tensor, y: Tensor, quality: Tensor) -> Tensor:
        """Return what the linear path gave, and what the other adds to it."""
        x = self.coarse(self.quality(y, quality))
        x = self.middle(F.pixel_shuffle(self.to_middle(x), 2))
        x = F.pixel_shuffle(self.to_fine(x), 2)
        # Seen here, the edges of the patches can be mended.
        x = self.join(torch.cat([x, F.pixel_unshuffle(linear, SUBPIXELS)], dim=1))
        x = self.fine(F.leaky_relu(self.refine_quality(x, quality), 0.1))
        return linear + F.pixel_shuffle(self.last(x), SUBPIXELS)


class FeatureCorrection(nn.Module):
    """Features of a decoded photo (N, C, h, w) to what those of the photo itself are likely."""

    def __init__(self, channels: int, *, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.quality = QualityBias(width)
        self.blocks = _wide_blocks(width, blocks)
        self.last = zero_init(nn.Conv2d(width, channels, 1))

    def forward(self, features: Tensor, quality: Tensor) -> Tensor:
        """Return corrected features, >= 0."""
        x = self.blocks(self.quality(self.squeeze(features), quality))
        return F.relu(features + cast(Tensor, self.last(F.leaky_relu(x, 0.1))))


def _wide_blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(WideBlock(channels, min(64, channels)) for _ in range(count)))
