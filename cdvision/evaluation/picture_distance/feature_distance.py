"""LPIPS and DISTS: distances of the activations of two pictures, weighted by published weights.

::

    activations of 5 taps ─ unit length over channels ─ difference² ─ linear ─ mean over places ─ Σ
    picture, 5 taps ─ means, variances, covariance ─ alpha · texture + beta · structure ─ 1 - Σ
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TINY = 1e-10  # of LPIPS: activations that are 0 everywhere stay 0
STABLE = 1e-6  # of DISTS: keeps divisions by nearly nothing harmless


def lpips(found: Sequence[Tensor], wanted: Sequence[Tensor], linear: Sequence[Tensor]) -> Tensor:
    """Return the LPIPS distances (N,) float32 of N pictures; 0 where all activations agree.

    Source: R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", CVPR 2018, equation 1.

    Args:
        found: taps of the pictures, (N, C, h, w) each.
        wanted: taps of the originals, of the same shapes.
        linear: weights (C,) of each tap's channels.
    """
    total = torch.zeros(len(found[0]), device=found[0].device)
    for first, second, weights in zip(found, wanted, linear, strict=True):
        difference = (_unit_length(first) - _unit_length(second)).square()
        # A 1x1 convolution to one channel is a weighted sum over the channels.
        total = total + torch.einsum("nchw,c->nhw", difference, weights).mean(dim=(1, 2))
    return total


def _unit_length(tap: Tensor) -> Tensor:
    """Scale the channels (N, C, h, w) of every place to a vector of length 1."""
    return tap / (tap.square().sum(dim=1, keepdim=True).sqrt() + TINY)


def dists(found: Sequence[Tensor], wanted: Sequence[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Return the DISTS distances (N,) float32 of N pictures; 0 where they are equal.

    Source: K. Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity",
    IEEE TPAMI 2022, equations 3 to 6.

    Args:
        found: the pictures in 0..1 and their taps, (N, C, h, w) each.
        wanted: those of the originals, of the same shapes.
        alpha: weights of texture, one for each channel of all stages.
        beta: weights of structure, likewise; both together are divided by their sum.
    """
    terms = [_texture_and_structure(a, b) for a, b in zip(found, wanted, strict=True)]
    texture, structure = (torch.cat(parts, dim=1) for parts in zip(*terms, strict=True))
    total = alpha.sum() + beta.sum()
    return 1 - (texture @ alpha + structure @ beta) / total


def _texture_and_structure(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Compare the means, and the patterns, of the channels of a stage: (N, C) each, 1 if equal."""
    places = (2, 3)
    means = [x.mean(places) for x in (first, second)]
    centred = [x - mean[:, :, None, None] for x, mean in zip((first, second), means, strict=True)]
    variances = [x.square().mean(places) for x in centred]
    # Centred first: E[xy] - E[x]E[y] would lose digits of float32 where means are large.
    covariance = (centred[0] * centred[1]).mean(places)
    texture = (2 * means[0] * means[1] + STABLE) / (means[0] ** 2 + means[1] ** 2 + STABLE)
    structure = (2 * covariance + STABLE) / (variances[0] + variances[1] + STABLE)
    return texture, structure
