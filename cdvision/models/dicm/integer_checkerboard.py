"""Training twin of the integer context network: the same integers, with gradients.

The forward pass computes what ``cdvision.entropy.context_network`` computes, value for value; see
there for a picture. Odd cells, those whose row + column is odd, are the first pass.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.entropy.context_network import MAGNITUDES, OFFSETS, REACH, ContextNetwork
from cdvision.models.dicm.checkerboard_mean import odd_cells
from cdvision.networks.integer_hyper import (
    ACTIVATION_BOUND,
    IntegerConv2d,
    chain_of,
    log_magnitudes,
    runtime_layer,
)


class NeighbourConv2d(IntegerConv2d):
    """1x1 convolution over a cell's features and what its twelve neighbours tell.

    The weights are stored as the runtime reads them, (out, F + 12 * S, 1, 1), neighbour by
    neighbour.
    """

    window: Tensor

    def __init__(
        self, features: int, told: int, out: int, *, shift: int, low: int, high: int
    ) -> None:
        super().__init__(features + len(OFFSETS) * told, out, 1, shift=shift, low=low, high=high)
        self.split = features
        # A window of 5x5 for each neighbour, 1 at its place: shifted copies of a map cost an engine
        # more than the zeros in a window do, and an exporter minutes.
        side = 2 * REACH + 1
        places = torch.tensor([(r + REACH) * side + c + REACH for r, c in OFFSETS])
        window = F.one_hot(places, side**2).float().view(-1, side, side)
        self.register_buffer("window", window, persistent=False)

    def forward(self, features: Tensor, told: Tensor, extra_bias: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve (N, F, h, w) and (N, S, h, w); ``extra_bias`` is (N, out), in output units."""
        weight = self.integer_weight()
        own, others = weight[:, : self.split], weight[:, self.split :]
        by_neighbour = others.reshape(len(weight), len(OFFSETS), -1)
        spread = torch.einsum("onc,nyx->ocyx", by_neighbour, self.window)
        total = F.conv2d(features, own, self.integer_bias())
        return self.requantise(total + F.conv2d(told, spread, padding=REACH), extra_bias)


class IntegerCheckerboard(nn.Module):
    """Hyper-latent and first pass to scale indices, in integers only.

    ::

        z (C_z)@1/64 ─ 3x3 ─ shuffle x2 ─ 3x3 ─ 1x1 ─ shuffle x2 ─▶ features (F)@1/16
        features ─ 1x1 + bias[quality] ─▶ index (C) of odd cells
        |symbols| of odd cells ─ 1x1 ─▶ (S) told to neighbours
        features, told by 12 neighbours ─ 1x1 + bias[quality] ─ 1x1 + bias[quality] ─▶ index (C) of
        even cells

    ``z`` lies in [-bound, bound], and indices in [0, levels - 1].
    """

    magnitudes: Tensor

    def __init__(
        self,
        hyper_channels: int,
        channels: int,
        *,
        qualities: int,
        levels: int,
        bound: int,
        hidden: int = 64,
        features: int = 48,
        told: int = 32,
        context: int = 96,
    ) -> None:
        super().__init__()
        self.bound = bound
        inner, last = {"low": 0, "high": ACTIVATION_BOUND}, {"low": 0, "high": levels - 1}
        self.conv1 = IntegerConv2d(hyper_channels, 4 * hidden, 3, shift=4, **inner)
        self.conv2 = IntegerConv2d(hidden, hidden, 3, shift=7, **inner)
        self.conv3 = IntegerConv2d(hidden, 4 * features, 1, shift=7, **inner)
        self.first = IntegerConv2d(features, channels, 1, shift=8, **last)
        self.squeeze = IntegerConv2d(channels, told, 1, shift=6, **inner)
        self.gather = NeighbourConv2d(features, told, context, shift=8, **inner)
        self.second = IntegerConv2d(context, channels, 1, shift=8, **last)
        self.first_bias = nn.Parameter(torch.zeros(qualities, channels))
        self.gather_bias = nn.Parameter(torch.zeros(qualities, context))
        self.second_bias = nn.Parameter(torch.zeros(qualities, channels))
        table = torch.from_numpy(MAGNITUDES.astype(np.float32))
        self.register_buffer("magnitudes", table, persistent=False)
        self._start()

    def _start(self) -> None:
        # A unit at each input must move activations by some units, or rounding hides it: see
        # ``IntegerHyperDecoder``. z comes in units, activations in tens, with a mean that adds up.
        for conv, gain, middle in (
            (self.conv1, 12.0, 30.0),
            (self.conv2, 0.85, 30.0),
            (self.conv3, 0.85, 30.0),
            (self.squeeze, 3.0, 10.0),
            (self.gather, 0.85, 30.0),
        ):
            nn.init.normal_(conv.weight, std=gain * conv.weight[0].numel() ** -0.5)
            nn.init.constant_(conv.bias, middle)
        # At first the scales are those of the channels: their biases.
        for conv in (self.first, self.second):
            nn.init.zeros_(conv.weight)

    def features(self, z: Tensor, like: Tensor) -> Tensor:
        """Return features (N, F, h, w) from integers ``z`` (N, C_z, ceil(h/4), ceil(w/4)).

        ``like`` has the height and width of the latents.
        """
        hidden = self.conv2(F.pixel_shuffle(self.conv1(z), 2))
        x = F.pixel_shuffle(self.conv3(hidden), 2)
        return x[:, :, : like.shape[2], : like.shape[3]]

    def first_index(self, features: Tensor, quality: Tensor) -> Tensor:
        """Return indices (N, C, h, w) from the features alone; odd cells are coded with them."""
        index: Tensor = self.first(features, self.first_bias[quality])
        return index

    def second_index(self, features: Tensor, symbols: Tensor, quality: Tensor) -> Tensor:
        """Return indices (N, C, h, w) that know the odd cells; even cells are coded with them.

        ``symbols`` (N, C, h, w) are integers, skipped ones zero; even cells are not read.
        """
        told = self.squeeze(log_magnitudes(symbols, self.magnitudes)) * odd_cells(symbols)
        hidden = self.gather(features, told, self.gather_bias[quality])
        index: Tensor = self.second(hidden, self.second_bias[quality])
        return index


@torch.no_grad()
def build_checkerboard_network(twin: IntegerCheckerboard) -> ContextNetwork:
    """Turn the training twin into the runtime's network; raises ModelError without the proofs."""
    hyper = [
        runtime_layer(twin.conv1, upsample=2),
        runtime_layer(twin.conv2),
        runtime_layer(twin.conv3, upsample=2),
    ]
    gather = runtime_layer(twin.gather, twin.gather_bias)
    return ContextNetwork(
        hyper=chain_of(hyper, bound=twin.bound),
        first=chain_of([runtime_layer(twin.first, twin.first_bias)]),
        squeeze=chain_of([runtime_layer(twin.squeeze)], bound=int(MAGNITUDES.max())),
        second=chain_of([gather, runtime_layer(twin.second, twin.second_bias)]),
    )
