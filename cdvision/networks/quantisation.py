"""Rounding with gradients, and the rate of rounded latents, for training."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_LIKELIHOOD = 1e-9


def straight_through(value: Tensor, quantised: Tensor) -> Tensor:
    """Return ``quantised`` forwards and pass the gradient to ``value`` backwards."""
    return value + (quantised - value).detach()


def round_straight_through(x: Tensor) -> Tensor:
    """Round to the nearest integer, with the gradient of the identity."""
    return straight_through(x, torch.round(x))


def add_uniform_noise(x: Tensor) -> Tensor:
    """Add noise in [-1/2, 1/2): the differentiable stand-in for rounding in the rate term.

    Source: Ballé et al., "End-to-end Optimized Image Compression", ICLR 2017.
    """
    return x + torch.rand_like(x) - 0.5


def gaussian_bits(x: Tensor, scale: Tensor) -> Tensor:
    """Return the bits of each element of ``x`` under a zero-mean Gaussian over unit bins."""
    # The density is symmetric: below the mean the difference of two CDFs keeps its precision.
    x = x.abs()
    upper, lower = (0.5 - x) / scale, (-0.5 - x) / scale
    likelihood = _normal_cdf(upper) - _normal_cdf(lower)
    return -torch.log2(likelihood.clamp_min(MIN_LIKELIHOOD))


def bits_per_image(*bits: Tensor) -> Tensor:
    """Sum maps (N, ...) of bits to (N,)."""
    return torch.stack([part.flatten(1).sum(1) for part in bits]).sum(0)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(2**-0.5))
