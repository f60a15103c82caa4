"""Resizing by area as two matrix products, which any engine can run."""

from __future__ import annotations

import torch
from torch import Tensor


def resize_area(x: Tensor, side: int) -> Tensor:
    """Average (N, C, H, W) over a grid of equal cells: (N, C, side, side).

    Two matrix products, so that cells may end inside a pixel and any engine can run it.
    """
    if x.shape[2] == x.shape[3] == side:
        return x
    rows, columns = (_area_matrix(length, side).to(x) for length in x.shape[2:])
    return rows @ x @ columns.t()


def _area_matrix(length: int, cells: int) -> Tensor:
    """Return (cells, length): how much of each pixel a cell covers; rows sum to one."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    pixels = torch.arange(length, dtype=torch.float64)
    low = torch.maximum(edges[:-1, None], pixels)
    high = torch.minimum(edges[1:, None], pixels + 1)
    return ((high - low).clamp_min(0) * cells / length).float()
