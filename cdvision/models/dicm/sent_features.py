"""What arrives of a batch of photos in training."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SentFeatures(NamedTuple):
    """Decoded features of a batch (N, 256, h, w), and what they cost; bits are (N,)."""

    features: Tensor
    noisy_bits: Tensor  # differentiable
    bits: Tensor  # of the symbols that are really sent
