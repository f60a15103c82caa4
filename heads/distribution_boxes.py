"""Boxes from the distributions that NanoDet-Plus predicts for the four sides of each cell.

Source: Li et al., "Generalized Focal Loss", NeurIPS 2020: a side's distance is the mean of a
softmax over 8 bins, in units of the stride. Cells start at (x, y) * stride, as in NanoDet-Plus.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import check_array

STRIDES = (8, 16, 32, 64)
SIDES, BINS = 4, 8

# One matrix product gives a softmax's denominator and its mean bin.
_SUM_AND_MEAN = np.stack([np.ones(BINS), np.arange(BINS)], axis=1).astype(np.float32)
# Left and top move against the axes.
_DIRECTION = np.array([-1, -1, 1, 1], dtype=np.float32)


@lru_cache(maxsize=64)
def cell_grid(height: int, width: int, strides: tuple[int, ...] = STRIDES) -> NDArray[np.float32]:
    """Return where each cell starts, and its stride: x, y, stride (M, 3) float32, read-only.

    >>> cell_grid(16, 24, (8, 16))[:, 0]
    array([ 0.,  8., 16.,  0.,  8., 16.,  0., 16.], dtype=float32)

    A network input of ``height`` x ``width`` pixels has one map of ceil(height / s) x
    ceil(width / s) cells per stride s, row by row.
    """
    maps = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) * stride
        maps.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    grid = np.concatenate(maps).astype(np.float32)
    grid.flags.writeable = False
    return grid


def decode_boxes(distances: NDArray[np.float32], cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn distance distributions into boxes, one per cell, in pixels of the input, not clipped.

    Distances (K, 32) float32 are logits of left, top, right and bottom, with 8 bins each; cells
    (K, 3) are rows of `cell_grid`.
    """
    check_array("distances", distances, shape=("k", SIDES * BINS), dtype=np.float32)
    check_array("cells", cells, shape=(len(distances), 3), dtype=np.float32)
    logits = distances.reshape(-1, BINS)
    total, weighted = weight_sums(logits - _row_maximum(logits)).T
    offsets = (weighted / total).reshape(-1, SIDES) * (cells[:, 2:] * _DIRECTION)
    boxes: NDArray[np.float32] = np.concatenate([cells[:, :2], cells[:, :2]], axis=1) + offsets
    return boxes


def weight_sums(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum of a row's exponentials, and of exponential times bin: (n, 8) to (n, 2)."""
    sums: NDArray[np.float32] = np.exp(logits) @ _SUM_AND_MEAN
    return sums


def _row_maximum(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    # Folding halves is several times faster than a reduction over an axis of 8.
    while logits.shape[1] > 1:
        half = logits.shape[1] // 2
        logits = np.maximum(logits[:, :half], logits[:, half:])
    return logits
