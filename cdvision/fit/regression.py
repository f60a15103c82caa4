"""Where a tap's training starts: the best linear prediction from each cell's neighbourhood.

One solve of normal equations replaces the first minutes of training, which would find the same
matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.fit.examples import Batch
from cdvision.networks.fitted_tap import FittedTap

CELLS = 60_000  # of latents, in all: some fifty for each weight of a prediction
RIDGE = 1e-3  # of the mean energy of an input
CROPS = 16  # drawn at once

DrawBatch = Callable[[int, np.random.Generator], Batch]
"""Cuts so many crops to learn from."""


@torch.no_grad()
def start_from_regression(
    tap: FittedTap,
    draw: DrawBatch,
    spread: Tensor,
    rng: np.random.Generator,
    *,
    cells: int = CELLS,
) -> None:
    """Set a tap, whose blocks are the identity still, to the reduced-rank ridge regression.

    ``spread`` (F,) holds the units in which errors of features count. It learns from ``cells`` of
    latents. Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
    """
    # A cell of the tap gives up x up cells of every feature, side by side.
    spread = spread.double().repeat_interleave(tap.shape.up**2)
    energy_in, both = _moments(tap, draw, rng, cells)
    # The ridge keeps weights of latents that are nearly always 0 from exploding.
    ridged = energy_in.clone()
    ridged.diagonal().add_(RIDGE * float(ridged.diagonal().mean()))
    solved = torch.linalg.solve(ridged, both) / spread  # (K + 1, outputs)
    weight, bias = solved[:-1], solved[-1]
    # The last input is the constant 1: its row of the moments is the mean of the others.
    mean = energy_in[-1, :-1]
    centred = energy_in[:-1, :-1] - mean[:, None] * mean
    # The directions in which predictions vary most are all that so narrow a tap can carry.
    energy, basis = torch.linalg.eigh(weight.T @ centred @ weight)
    rank = min(tap.shape.width, len(energy))
    # Either convolution takes the root of a direction's deviation: their gradients are then alike.
    basis, scale = basis[:, -rank:], energy[-rank:].clamp_min(1e-12) ** 0.25
    # What lies between is centred: gains of a quality then scale what differs, not the mean.
    _set(tap.opening, (weight @ basis / scale).T, -(mean @ weight @ basis) / scale)
    offset = bias + mean @ weight
    _set(tap.closing, (basis * scale) * spread[:, None], offset * spread)


def _moments(
    tap: FittedTap, draw: DrawBatch, rng: np.random.Generator, cells: int
) -> tuple[Tensor, Tensor]:
    """Return second moments per cell: (K + 1, K + 1) of neighbourhoods, (K + 1, outputs) of both.

    The last of K + 1 is the constant 1.
    """
    place, down = tap.closing.weight.device, tap.shape.down
    width = tap.opening.weight[0].numel() + 1
    # Tens of thousands of cells are added up: float32 would lose the smallest directions.
    inputs = torch.zeros(width, width, dtype=torch.float64, device=place)
    both = torch.zeros(width, tap.shape.outputs, dtype=torch.float64, device=place)
    seen = 0
    while seen < cells:
        batch = draw(CROPS, rng).to(place)
        inside = _tap_cells(tap, batch.counts)[:, 0] > 0
        # What the tap's first convolution sees at each of its cells: (n, C * k * k).
        patches = F.unfold(batch.latents, down + 2, padding=1, stride=down)
        x = F.pad(patches.transpose(1, 2).flatten(0, 1)[inside], (0, 1), value=1.0)
        inputs += x.T @ x
        both += x.T @ _tap_cells(tap, batch.features)[inside]
        seen += max(1, len(x))
    return inputs / seen, both / seen


def _tap_cells(tap: FittedTap, features: Tensor) -> Tensor:
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
