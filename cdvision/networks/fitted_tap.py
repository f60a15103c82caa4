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
    """What a fitted tap is made of, as its card keeps it.

    Attributes:
        source: channels of the dequantised latents.
        features: channels at the network's split point.
        up: cells of the features across one cell of the latents; 1 where they are coarser.
        down: cells of the latents across one cell of the features; 1 where they are finer.
        width: channels inside.
        depth: residual blocks.
        qualities: of the model.
        positive: the features are never below 0: neither is what the tap gives.
    """

    source: int
    features: int
    up: int = 1
    down: int = 1
    width: int = 512
    depth: int = 3
    qualities: int = 8
    positive: bool = False

    @property
    def outputs(self) -> int:
        """Values that the tap gives for each of its own cells."""
        return self.features * self.up**2


class FittedTap(nn.Module):
    """Latents to features, cell for cell.

    ::

        y (C) ─ 3x3 ─ gain[q] ─▶ h (width) ─ residual blocks ─ 1x1 ─ shuffle ─▶ features

    First and last convolution begin as the best linear prediction of such a rank from each cell's
    neighbourhood, and the blocks begin as the identity: training begins where regression ends.
    The coarser a stream, the less of a latent is to be believed: hence a gain for each quality.
    Everything happens at the coarser of both resolutions, where a weight costs least. Where the
    features are coarser than the latents, the first convolution strides.
    """

    def __init__(self, shape: TapShape) -> None:
        super().__init__()
        self.shape = shape
        self.opening = nn.Conv2d(
            shape.source, shape.width, shape.down + 2, stride=shape.down, padding=1
        )
        self.gain = nn.Parameter(torch.ones(shape.qualities, shape.width))
        self.shift = nn.Parameter(torch.zeros(shape.qualities, shape.width))
        hidden = max(8, shape.width // 3)
        self.blocks = nn.Sequential(*(_Block(shape.width, hidden) for _ in range(shape.depth)))
        self.closing = nn.Conv2d(shape.width, shape.outputs, 1)

    def forward(self, y: Tensor, quality: Tensor) -> Tensor:
        """Map (N, source, h, w) to (N, features, h * up / down, w * up / down).

        Args:
            y: dequantised latents.
            quality: (N,) int64, counted from 0.
        """
        gain, shift = self.gain[quality][:, :, None, None], self.shift[quality][:, :, None, None]
        hidden = self.blocks(self.opening(y) * gain + shift)
        features = F.pixel_shuffle(self.closing(hidden), self.shape.up)
        return F.relu(features) if self.shape.positive else features


class _Block(nn.Module):
    """Residual block, shape-preserving: 3x3 -> LeakyReLU -> 1x1.

    Full 3x3 convolutions: gradients of depth-wise ones take longer, for all that they save.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvAct(channels, hidden, 3), zero_init(nn.Conv2d(hidden, channels, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its refinement."""
        refined: Tensor = x + self.body(x)
        return refined


class FittedTapGraph(nn.Module):
    """Integer latents to features: the model's dequantiser and the tap.

    Args:
        dequantiser: of the model, see ``graphs.latents_decoder``.
        tap: as fitted.
    """

    def __init__(self, dequantiser: nn.Module, tap: FittedTap) -> None:
        super().__init__()
        self.dequantiser, self.tap = dequantiser, tap

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents and (N,) int64 qualities to features."""
        y = self.dequantiser(symbols.float(), hyper.float(), quality)
        return (self.tap(y, quality),)


class FittedAnswerGraph(FittedTapGraph):
    """Integer latents to features and the outputs of the rest of the network.

    Args:
        dequantiser: as above.
        tap: as above.
        tail: features to named outputs.
        outputs: names of those that the graph gives, in order.
    """

    def __init__(
        self, dequantiser: nn.Module, tap: FittedTap, tail: nn.Module, outputs: tuple[str, ...]
    ) -> None:
        super().__init__(dequantiser, tap)
        self.tail, self._outputs = tail, outputs

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return features and outputs."""
        (features,) = super().forward(symbols, hyper, quality)
        found: Mapping[str, Tensor] = self.tail(features)
        return (features, *(found[name] for name in self._outputs))
