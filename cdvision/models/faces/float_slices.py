"""The reference of what exact scales cost in `hsc`: slice networks in floats, for training only.

The same sizes and the same order as ``integer_slices``, but real numbers everywhere, signed symbols
and real-valued scales: what the method's own networks are. No decoder may use it: two machines
would not agree on its scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.hsc_widths import BASE_SIDE, HscWidths
from cdvision.networks.layers import ConvAct, zero_init

INDEX_UNIT = 8.0  # scale indices are tens, activations units


class FloatSlices(nn.Module):
    """Base symbols and symbols of earlier slices to real-valued scale indices.

    Args:
        widths: sizes.
        qualities: number of qualities.
    """

    def __init__(self, widths: HscWidths, *, qualities: int) -> None:
        super().__init__()
        self.widths = widths
        steps, side = (widths.detail_side // BASE_SIDE).bit_length() - 1, widths.side
        inputs = [widths.base, *(side for _ in range(steps - 1))]
        self.ups = nn.ModuleList(ConvAct(channels, 4 * side, 3) for channels in inputs)
        self.smooth = ConvAct(side, side, 3)
        channels, hidden = widths.slice_channels, widths.hidden
        first, second, third = widths.kernels
        seen = [side + 2 * k * channels for k in range(widths.slices)]
        self.first = nn.ModuleList(nn.Conv2d(s, hidden, first, padding=first // 2) for s in seen)
        self.second = nn.ModuleList(ConvAct(hidden, hidden, second) for _ in seen)
        self.third = nn.ModuleList(
            zero_init(nn.Conv2d(hidden, channels, third, padding=third // 2)) for _ in seen
        )
        self.hidden_bias = nn.Parameter(torch.zeros(widths.slices, qualities, hidden))
        self.index_bias = nn.Parameter(torch.zeros(widths.slices, qualities, channels))

    def start_indices(self, index: Tensor) -> None:
        """Let scales begin at (qualities, C_d) indices."""
        parts = torch.split(index, self.widths.slice_channels, dim=1)
        self.index_bias.data.copy_(torch.stack(parts) / INDEX_UNIT)

    def forward(self, base: Tensor, symbols: Tensor, quality: Tensor) -> Tensor:
        """Return the index (N, C_d, h, h) of every symbol, each slice seeing those before it.

        Args:
            base: (N, C_b, 2, 2) integers.
            symbols: (N, C_d, h, h) integers.
            quality: (N,) int64.
        """
        side = base
        for conv in self.ups:
            side = F.pixel_shuffle(conv(side), 2)
        seen, indices = self.smooth(side), []
        for position, part in enumerate(torch.split(symbols, self.widths.slice_channels, dim=1)):
            bias = self.hidden_bias[position][quality][:, :, None, None]
            hidden = self.second[position](F.leaky_relu(self.first[position](seen) + bias, 0.1))
            offset = self.index_bias[position][quality][:, :, None, None]
            indices.append(INDEX_UNIT * (self.third[position](hidden) + offset))
            seen = torch.cat([seen, part, torch.log2(1 + part.abs())], 1)
        return torch.cat(indices, 1)
