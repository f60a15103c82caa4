"""Training twin of the integer hyper-network: the same integers, with gradients.

The forward pass computes what ``cdvision.entropy.integer_network`` computes, value for value;
weights, biases and activations are integers held in float32. Gradients pass through rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.networks.quantisation import round_straight_through, straight_through

WEIGHT_BOUND = 127
ACTIVATION_BOUND = 127


class IntegerConv2d(nn.Module):
    """Convolution of integers with "same" zero padding, clipped to a static range.

    ``out = clip((sum(w * x) + b + 2^(shift-1)) >> shift, low, high)`` with ``w`` in [-127, 127];
    weights are learned in steps of ``2^-shift``.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, shift: int = 6, low: int, high: int
    ) -> None:
        super().__init__()
        self.shift, self.low, self.high = shift, low, high
        self.weight = nn.Parameter(torch.empty(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.kaiming_normal_(self.weight)

    def integer_weight(self) -> Tensor:
        """Return the weights as integers (out, channels, kernel, kernel)."""
        scaled = (self.weight * 2**self.shift).clamp(-WEIGHT_BOUND, WEIGHT_BOUND)
        return round_straight_through(scaled)

    def integer_bias(self) -> Tensor:
        """Return the biases as integers (out,)."""
        return round_straight_through(self.bias * 2**self.shift)

    def forward(self, x: Tensor, extra_bias: Tensor | None = None) -> Tensor:
        """Convolve integers (N, C, H, W); ``extra_bias`` (N, out), in output units, is added."""
        total = F.conv2d(x, self.integer_weight(), self.integer_bias(), padding="same")
        return self.requantise(total, extra_bias)

    def requantise(self, total: Tensor, extra_bias: Tensor | None = None) -> Tensor:
        """Shift and clip sums (N, out, H, W)."""
        if extra_bias is not None:
            total = total + round_straight_through(extra_bias * 2**self.shift)[:, :, None, None]
        # The runtime shifts (sum + half a unit) right, which floors: rounding half up.
        scaled = total * 2**-self.shift
        shifted = straight_through(scaled, torch.floor(scaled + 0.5))
        return shifted.clamp(self.low, self.high)


class IntegerHyperDecoder(nn.Module):
    """Hyper-latent to scale indices, x4 in resolution, in integers only.

    ::

        z (C_z)@1/64 ─ 3x3 ─ shuffle x2 ─ 3x3 ─ 1x1 + bias[quality] ─ shuffle x2 ─▶ index (C)@1/16

    Indices lie in [0, levels - 1]. Every quality has a bias of its own for each channel and phase.
    """

    def __init__(
        self, hyper_channels: int, channels: int, *, hidden: int, qualities: int, levels: int
    ) -> None:
        super().__init__()
        bounds = {"low": 0, "high": ACTIVATION_BOUND}
        self.conv1 = IntegerConv2d(hyper_channels, 4 * hidden, 3, shift=4, **bounds)
        self.conv2 = IntegerConv2d(hidden, hidden, 3, shift=7, **bounds)
        # 2x2 cells at once, so each phase of the spatial prediction has scales of its own: a cell
        # that is predicted from its neighbours has less left to tell.
        self.conv3 = IntegerConv2d(hidden, 4 * channels, 1, shift=8, low=0, high=levels - 1)
        self.quality_bias = nn.Parameter(torch.zeros(qualities, 4 * channels))
        # A unit of z must move activations by some units, or rounding hides all of z: it collapses
        # to zeros and stays there, as no gradient reaches a layer whose input is zero.
        for conv, spread, middle in ((self.conv1, 0.8, 30.0), (self.conv2, 0.05, 30.0)):
            nn.init.normal_(conv.weight, std=spread)
            nn.init.constant_(conv.bias, middle)
        nn.init.zeros_(self.conv3.weight)  # at first the scales are those of the channels

    def hidden(self, z: Tensor) -> Tensor:
        """Return the activations before the last layer (N, hidden, 2h, 2w)."""
        out: Tensor = self.conv2(F.pixel_shuffle(self.conv1(z), 2))
        return out

    def forward(self, z: Tensor, quality: Tensor) -> Tensor:
        """Return indices (N, C, 4h, 4w) from integers ``z`` (N, C_z, h, w)."""
        return F.pixel_shuffle(self.conv3(self.hidden(z), self.quality_bias[quality]), 2)


def log_magnitudes(symbols: Tensor, table: Tensor) -> Tensor:
    """Look magnitudes up in ``MAGNITUDES``; the gradient is that of the logarithm behind it."""
    # The table's entries are rounded logarithms: smooth behind, so gradients have a direction.
    size = symbols.abs().clamp(max=len(table) - 1)
    return straight_through(8 * torch.log2(1 + size), table[size.long()])


def chain_of(layers: list[IntegerLayer], bound: int = ACTIVATION_BOUND) -> IntegerNetwork:
    """Chain layers whose inputs lie in [-bound, bound]; raises ModelError without the proof."""
    return IntegerNetwork(tuple(layers), bound)


def runtime_layer(
    conv: IntegerConv2d, extra: Tensor | None = None, *, upsample: int = 1
) -> IntegerLayer:
    """Freeze a convolution; ``extra`` biases (qualities, out) are in output units."""
    bias = conv.integer_bias()[None]
    # Biases join the sum before the shift, so they stand in units of 2^-shift.
    if extra is not None:
        bias = bias + torch.round(extra * 2**conv.shift)
    return IntegerLayer(
        weight=conv.integer_weight().cpu().numpy().astype(np.int8),
        bias=bias.cpu().numpy().astype(np.int32),
        shift=conv.shift,
        low=conv.low,
        high=conv.high,
        upsample=upsample,
    )
