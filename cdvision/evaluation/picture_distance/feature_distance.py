"""Distances of two pictures' activations, in the style of LPIPS and of DISTS.

LPIPS and DISTS weight the channels by learned weights over AlexNet or VGG. Those weights are not
at hand, so all channels weigh the same here, and the figures are no LPIPS and no DISTS: they carry
the name of the network, and can be compared only with figures of the same kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STABLE = 1e-6  # of DISTS: keeps divisions by nearly nothing harmless


def lpips_style(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return (N,) distances; 0 where all activations point the same way.

    At every place the channels become a vector of length 1; squared differences are summed over
    channels, then averaged over places, and over stages.

    Source: R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", CVPR 2018; its unweighted form.

    Args:
        found: stages of N pictures, (N, C, h, w) each.
        wanted: stages of the originals, of the same shapes.
    """
    parts = [
        (F.normalize(a, dim=1, eps=1e-4) - F.normalize(b, dim=1, eps=1e-4)).square().sum(1)
        for a, b in zip(found, wanted, strict=True)
    ]
    return torch.stack([part.mean(dim=(1, 2)) for part in parts]).mean(0)


def dists_style(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return (N,) distances; 0 where means, spreads and patterns of every channel agree.

    A channel's texture term compares its means over places, its structure term the covariance with
    the variances; 1 less the mean of both, over channels, then over stages. DISTS takes the
    picture itself as a stage too: pass it as the first, in 0..1.

    Source: K. Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity",
    IEEE TPAMI 2022, equations 3 to 5 with equal weights.

    Args:
        found: stages of N pictures, (N, C, h, w) each.
        wanted: stages of the originals, of the same shapes.
    """
    parts = [_similarity(a, b) for a, b in zip(found, wanted, strict=True)]
    return 1 - torch.stack(parts).mean(0)


def _similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return (N,): the mean of texture and structure terms over the channels of a stage."""
    places = (2, 3)
    means = [x.mean(places) for x in (first, second)]
    centred = [x - mean[:, :, None, None] for x, mean in zip((first, second), means, strict=True)]
    variances = [x.square().mean(places) for x in centred]
    covariance = (centred[0] * centred[1]).mean(places)
    texture = (2 * means[0] * means[1] + STABLE) / (means[0] ** 2 + means[1] ** 2 + STABLE)
    structure = (2 * covariance + STABLE) / (variances[0] + variances[1] + STABLE)
    return ((texture + structure) / 2).mean(1)
