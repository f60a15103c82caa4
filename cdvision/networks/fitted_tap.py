"""The tap of ``cdvision fit``: from what every receiver decodes to the features of any network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.layers import ConvAct, zero_init


@dataclass(frozen=True)
class TapShape:
    """What a fitted tap is made of, as its card keeps it."""

    source: int  # channels of the dequantised latents
    features: int  # channels at the network's split point
    up: int = 1  # cells of the features across one cell of the latents; 1 where they are coarser
    down: int = 1  # cells of the latents across one cell of the features; 1 where they are finer
    width: int = 512  # channels inside
    depth: int = 3  # residual blocks
    qualities: int = 8
    positive: bool = False  # whether the features, and so the tap's outputs, are never below 0

    @property
    def outputs(self) -> int:
        """Values that the tap gives for each of its own cells."""
        return self.features * self.up**2


class FittedTap(nn.Module):
    """Latents to features, cell for cell.

    ::

        y (C) ─ 3x3 ─ gain[q] ─▶ h (width) ─ residual blocks ─ 1x1 ─ shuffle ─▶ features

    Training begins where regression ends: the first and the last convolution begin as the best
    linear prediction of such a rank, the blocks as the identity.
    """

    def __init__(self, shape: TapShape) -> None:
        super().__init__()
        self.shape = shape
        # Everything happens at the coarser of both resolutions, where a weight costs least.
        self.opening = nn.Conv2d(
            shape.source, shape.width, shape.down + 2, stride=shape.down, padding=1
        )
        # The coarser a stream, the less of a latent is to be believed: a gain for each quality.
        self.gain = nn.Parameter(torch.ones(shape.qualities, shape.width))
        self.shift = nn.Parameter(torch.zeros(shape.qualities, shape.width))
        hidden = max(8, shape.width // 3)
        self.blocks = nn.Sequential(*(WideBlock(shape.width, hidden) for _ in range(shape.depth)))
        self.closing = nn.Conv2d(shape.width, shape.outputs, 1)

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """Map latents (N, source, h, w) to (N, features, h * up / down, w * up / down).

        ``quality`` is (N,) int64, counted from 0.
        """
        gain, shift = self.gain[quality][:, :, None, None], self.shift[quality][:, :, None, None]
        hidden = self.blocks(self.opening(y) * gain + shift)
        features = F.pixel_shuffle(self.closing(hidden), self.shape.up)
        return F.relu(features) if self.shape.positive else features


class WideBlock(nn.Module):
    """Residual block, shape-preserving: 3x3 -> LeakyReLU -> 1x1."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # A full 3x3: gradients of a depth-wise one take longer, for all that it saves.
        self.body = nn.Sequential(
            ConvAct(channels, hidden, 3), zero_init(nn.Conv2d(hidden, channels, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its refinement."""
        refined: Tensor = x + self.body(x)
        return refined


class FittedTapGraph(nn.Module):
    """Integer latents to features, and to named outputs of the network's tail where it has one."""

    def __init__(
        self,
        dequantiser: nn.Module,
        tap: FittedTap,
        tail: nn.Module | None = None,
        outputs: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.dequantiser, self.tap, self.tail, self._outputs = dequantiser, tap, tail, outputs

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents and (N,) int64 qualities to features, then outputs in order."""
        features = self.tap(self.dequantiser(symbols.float(), hyper.float(), quality), quality)
        found: Mapping[str, Tensor] = {} if self.tail is None else self.tail(features)
        return (features, *(found[name] for name in self._outputs))
