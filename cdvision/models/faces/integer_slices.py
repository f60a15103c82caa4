"""Training twin of the integer slice networks of `hsc`, and what is frozen for its coder.

The twin's forward pass computes what ``receiver/hsc.py`` computes, value for value, with gradients.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.entropy.context_network import MAGNITUDES
from cdvision.entropy.frequencies import TOTAL, optimal_frequencies
from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.tables import SymbolTables
from cdvision.models.faces.widths import BASE_SIDE, HscWidths
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.integer_hyper import (
    ACTIVATION_BOUND,
    IntegerConv2d,
    chain_of,
    log_magnitudes,
    runtime_layer,
)

SILENT = 0.995
"""A channel whose symbols are 0 with at least this probability is not coded, and always 0."""
WORTH = 0.5 / TOTAL
"""Symbols at the ends of a table with less probability are left out: the encoder clips to it."""


class IntegerSlices(nn.Module):
    """Base symbols, and symbols of earlier slices, to scale indices, in integers only.

    ::

        base (C_b)@2x2 ─ 3x3 ─ shuffle x2 ─ 3x3 ─ shuffle x2 ─ 3x3 ─▶ side information (S)@8x8
        side information, |slices before| ─ conv + bias[quality] ─ conv ─ conv + bias[quality] ─▶
        index of the slice

    Indices lie in [0, levels - 1], base symbols in [-bound, bound].
    """

    magnitudes: Tensor

    def __init__(self, widths: HscWidths, *, qualities: int, levels: int, bound: int) -> None:
        super().__init__()
        self.widths, self.bound = widths, bound
        inner, last = {"low": 0, "high": ACTIVATION_BOUND}, {"low": 0, "high": levels - 1}
        # Each step doubles the side. The first sums small symbols, the others activations up to
        # 127: so it drops fewer bits.
        steps, side = (widths.detail_side // BASE_SIDE).bit_length() - 1, widths.side
        inputs = [widths.base, *(side for _ in range(steps - 1))]
        self.ups = nn.ModuleList(
            IntegerConv2d(channels, 4 * side, 3, shift=7 if step else 4, **inner)
            for step, channels in enumerate(inputs)
        )
        self.smooth = IntegerConv2d(side, side, 3, shift=7, **inner)
        channels, hidden = widths.slice_channels, widths.hidden
        first, second, third = widths.kernels
        seen = [side + k * channels for k in range(widths.slices)]
        self.first = nn.ModuleList(IntegerConv2d(s, hidden, first, shift=8, **inner) for s in seen)
        self.second = nn.ModuleList(
            IntegerConv2d(hidden, hidden, second, shift=7, **inner) for _ in seen
        )
        self.third = nn.ModuleList(
            IntegerConv2d(hidden, channels, third, shift=8, **last) for _ in seen
        )
        self.hidden_bias = nn.Parameter(torch.zeros(widths.slices, qualities, hidden))
        self.index_bias = nn.Parameter(torch.zeros(widths.slices, qualities, channels))
        table = torch.from_numpy(MAGNITUDES.astype(np.float32))
        self.register_buffer("magnitudes", table, persistent=False)
        self._start()

    def _start(self) -> None:
        """Let a unit at each input move activations by some units: see ``IntegerHyperDecoder``."""
        for conv in self.modules():
            if isinstance(conv, IntegerConv2d):
                # Base symbols are small integers, activations run up to 127: the first layer
                # amplifies.
                gain = 12.0 if conv is self.ups[0] else 0.85
                nn.init.normal_(conv.weight, std=gain * conv.weight[0].numel() ** -0.5)
                # Well inside of what clips at 0 and at 127: gradients pass from the first step.
                nn.init.constant_(conv.bias, 30.0)
        for conv in _convolutions(self.third):  # at first the scales are those of the channels
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)

    def start_indices(self, index: Tensor) -> None:
        """Let scales begin at (qualities, C_d) real-valued indices."""
        highest = _convolutions(self.third)[0].high
        # The last layer's weights are zero then, so its biases are the indices.
        parts = torch.split(index.clamp(0, highest), self.widths.slice_channels, dim=1)
        self.index_bias.data.copy_(torch.stack(parts))

    def side(self, base: Tensor) -> Tensor:
        """Return side information (N, S, h, h) from base symbols (N, C_b, 2, 2)."""
        x = base
        for conv in self.ups:
            # Sub-pixel doubling: four channels become the cells of a 2 x 2 square.
            x = F.pixel_shuffle(conv(x), 2)
        smooth: Tensor = self.smooth(x)
        return smooth

    def index(self, position: int, side: Tensor, symbols: Tensor, quality: Tensor) -> Tensor:
        """Return the indices (N, c, h, h) of a slice.

        ``symbols`` (N, position * c, h, h) are those of the slices before it, skipped ones zero.
        """
        # Magnitudes tell how wide neighbours are; signs tell nothing of a scale.
        seen = torch.cat([side, log_magnitudes(symbols, self.magnitudes)], 1)
        hidden = self.first[position](seen, self.hidden_bias[position][quality])
        hidden = self.second[position](hidden)
        index: Tensor = self.third[position](hidden, self.index_bias[position][quality])
        return index

    def forward(self, base: Tensor, symbols: Tensor, quality: Tensor) -> Tensor:
        """Return the index (N, C_d, h, h) of every symbol, each slice seeing those before it.

        ``symbols`` (N, C_d, h, h) are those that the receiver will see: skipped ones zero.
        """
        side, size = self.side(base), self.widths.slice_channels
        indices = [
            self.index(position, side, symbols[:, : position * size], quality)
            for position in range(self.widths.slices)
        ]
        return torch.cat(indices, 1)


@torch.no_grad()
def build_slice_networks(twin: IntegerSlices) -> tuple[IntegerNetwork, tuple[IntegerNetwork, ...]]:
    """Return the runtime's side network and slice networks; raises ModelError without proofs."""
    ups = [runtime_layer(conv, upsample=2) for conv in _convolutions(twin.ups)]
    side = chain_of([*ups, runtime_layer(twin.smooth)], bound=twin.bound)
    parts = zip(*map(_convolutions, (twin.first, twin.second, twin.third)), strict=True)
    slices = [
        chain_of(
            [
                runtime_layer(first, twin.hidden_bias[position]),
                runtime_layer(second),
                runtime_layer(third, twin.index_bias[position]),
            ]
        )
        for position, (first, second, third) in enumerate(parts)
    ]
    return side, tuple(slices)


def _convolutions(modules: nn.ModuleList) -> list[IntegerConv2d]:
    return [cast(IntegerConv2d, module) for module in modules]


@torch.no_grad()
def base_tables(prior: FactorisedPrior) -> SymbolTables:
    """Freeze the prior of the base: one table a quality and channel."""
    probabilities = prior.probabilities().double().cpu().numpy()
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    tables = [_base_table(row / row.sum(), prior.bound) for row in rows]
    return SymbolTables(
        low=np.array([low for low, _ in tables], np.int16),
        # The last frequency is the escape's, so a table has one symbol less than frequencies.
        high=np.array([low + len(frequency) - 2 for low, frequency in tables], np.int16),
        frequencies=np.concatenate([frequency for _, frequency in tables]).astype(np.uint16),
    )


def _base_table(row: NDArray[np.float64], bound: int) -> tuple[int, NDArray[np.int64]]:
    """Return the first symbol and the frequencies, the escape's, which is 0, last."""
    # The middle of a row is the probability of 0.
    if row[bound] >= SILENT:
        return 0, np.array([TOTAL, 0])
    kept = np.flatnonzero(row >= WORTH)
    first, last = int(kept[0]), int(kept[-1])
    mass = row[first : last + 1].copy()
    # What lies beyond the ends is clipped to them, so it is their probability too.
    mass[0] += row[:first].sum()
    mass[-1] += row[last + 1 :].sum()
    return first - bound, np.append(optimal_frequencies(mass), 0)
