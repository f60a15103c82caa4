"""Metrics on features: which directions of them a network's answers depend on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

PROBES = 2  # random projections of the outputs of each image


def blocks(features: Tensor, block: int = 2) -> Tensor:
    """Gather the blocks of a map (N, C, block * h, block * w) as samples (n, block^2 * C)."""
    return F.pixel_unshuffle(features, block).movedim(1, -1).flatten(0, 2)


def weighted_error(root: Tensor, found: Tensor, target: Tensor, block: int = 2) -> Tensor:
    """Mean error of features (N, C, block * h, block * w) in a metric on their blocks."""
    difference = F.pixel_unshuffle((found - target).float(), block)
    return F.conv2d(difference, root[:, :, None, None]).float().square().mean()


def block_moments(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the covariance of blocks and the second moment of gradients there, both (D, D).

    ``pairs`` are blocks (n, D) and gradients (n, D) of one batch each; one pair at least.
    """
    # Sums of float64: differences of large squares would leave nothing of float32.
    parts = [
        (len(x), x.sum(0), x.T @ x, g.T @ g)
        for x, g in ((samples.double(), gradients.double()) for samples, gradients in pairs)
    ]
    counts, sums, squares, moments = zip(*parts, strict=True)
    mean = sum(sums[1:], sums[0]) / sum(counts)
    second = sum(squares[1:], squares[0]) / sum(counts)
    return second - mean[:, None] * mean, sum(moments[1:], moments[0]) / sum(counts)


def metric_root(covariance: Tensor, moment: Tensor, floor: float) -> Tensor:
    """Square root of the gradients' second moment plus a floor, scaled to unit mean energy."""
    moment = moment / moment.diagonal().mean()
    moment = moment + floor * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    # The symmetric root: its components keep their places, so that it can be read as a weight.
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    # Scaled so that a code that sends nothing has the loss 1.
    energy = (root @ covariance @ root).diagonal().mean()
    return (root / energy.sqrt()).float()


def unexplained_variance(found: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the target's variance, channel by channel: 0 exact, 1 the mean."""
    found, target = found.float(), target.float()  # half precision cannot hold sums of squares
    dims = [d for d in range(target.ndim) if d != 1]
    centred = target - target.mean(dims, keepdim=True)
    # The floor keeps channels that hardly ever fire from outweighing those that carry the image.
    variance = centred.square().mean(dims) + 0.1 * centred.square().mean()
    return ((found - target).square().mean(dims) / variance).mean()
