"""Integer convolutions of the training twin, frozen into the layers that a receiver runs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.networks.integer_hyper import ACTIVATION_BOUND, IntegerConv2d
from cdvision.networks.quantisation import straight_through


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
