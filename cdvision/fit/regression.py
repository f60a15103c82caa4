"""Where a tap's training starts: the best linear prediction from each cell's neighbourhood.

One solve of normal equations instead of the first minutes of training, which would spend themselves
on finding the same matrix.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.fit.examples import Batch
from cdvision.networks.fitted_tap import FittedTap

CELLS = 60_000  # of latents, in all: some fifty for each weight of a prediction
RIDGE = 1e-3  # of the mean energy of an input


class Crops(Protocol):
    """Where crops to learn from come from: a ``Window`` of photos, say."""

    def batch(self, size: int, rng: np.random.Generator) -> Batch:
        """Cut so many crops."""


class Moments(NamedTuple):
    """Second moments of neighbourhoods (with a constant 1 at the end) and features, per cell."""

    inputs: Tensor  # (K + 1, K + 1)
    both: Tensor  # (K + 1, outputs)


@torch.no_grad()
def start_from_regression(
    tap: FittedTap,
    window: Crops,
    spread: Tensor,
    rng: np.random.Generator,
    *,
    cells: int = CELLS,
) -> None:
    """Set a tap to the reduced-rank ridge regression of features on latents.

    Args:
        tap: changed in place; its blocks are the identity still.
        window: examples to learn from.
        spread: (F,), in whose units the errors of features count.
        rng: chooses crops.
        cells: of latents to learn from.

    Source of the reduction: Izenman, "Reduced-rank regression for the multivariate linear model",
    J. Multivariate Analysis 1975.
    """
    spread = spread.double().repeat_interleave(tap.shape.up**2)
    moments = _moments(tap, window, rng, cells)
    inputs = moments.inputs.clone()
    inputs.diagonal().add_(RIDGE * float(inputs.diagonal().mean()))
    solved = torch.linalg.solve(inputs, moments.both) / spread  # (K + 1, outputs)
    weight, bias = solved[:-1], solved[-1]
    mean = moments.inputs[-1, :-1]
    centred = moments.inputs[:-1, :-1] - mean[:, None] * mean
    energy, basis = torch.linalg.eigh(weight.T @ centred @ weight)
    rank = min(tap.shape.width, len(energy))
    basis, scale = basis[:, -rank:], energy[-rank:].clamp_min(1e-12) ** 0.25
    _set(tap.opening, (weight @ basis / scale).T, -(mean @ weight @ basis) / scale)
    offset = bias + mean @ weight
    _set(tap.closing, (basis * scale) * spread[:, None], offset * spread)


def _moments(tap: FittedTap, window: Crops, rng: np.random.Generator, cells: int) -> Moments:
    place = tap.closing.weight.device
    width = tap.opening.weight[0].numel() + 1
    inputs = torch.zeros(width, width, dtype=torch.float64, device=place)
    both = torch.zeros(width, tap.shape.outputs, dtype=torch.float64, device=place)
    seen = 0
    while seen < cells:
        batch = window.batch(16, rng).to(place)
        inside = squares(tap, batch.counts)[:, 0] > 0
        x = F.pad(neighbourhoods(tap, batch.latents)[inside], (0, 1), value=1.0)
        inputs += x.T @ x
        both += x.T @ squares(tap, batch.features)[inside]
        seen += max(1, len(x))
    return Moments(inputs / seen, both / seen)


def neighbourhoods(tap: FittedTap, latents: Tensor) -> Tensor:
    """Gather what the tap's first convolution sees at each of its cells: (n, C * k * k)."""
    kernel, stride = tap.shape.down + 2, tap.shape.down
    patches = F.unfold(latents, kernel, padding=1, stride=stride)
    return patches.transpose(1, 2).flatten(0, 1)


def squares(tap: FittedTap, features: Tensor) -> Tensor:
    """Gather the features across each of the tap's cells: (n, F * up * up)."""
    return F.pixel_unshuffle(features, tap.shape.up).movedim(1, -1).flatten(0, 2)


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Fill the first (opening) or all (closing) channels; the others begin silent."""
    if conv.bias is None:
        raise ValueError("expected a convolution with a bias")
    rows, columns = weight.shape
    flat = conv.weight.flatten(1)
    if rows == len(flat):
        flat = torch.zeros_like(flat)
    flat[:rows, :columns] = weight.to(flat)
    conv.weight.copy_(flat.view_as(conv.weight))
    conv.bias[:rows] = bias.to(conv.bias)
