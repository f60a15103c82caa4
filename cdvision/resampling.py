"""Resampling as matrices: how a tap brings a window of the image to a map of fixed size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resampling_matrix(cells: int, start: float, stop: float, outputs: int) -> NDArray[np.float32]:
    """Return the matrix that resamples a window of a row of cells, with anti-aliasing.

    >>> resampling_matrix(4, 0, 4, 2).astype(float).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]

    Args:
        cells: number of source cells; cell i covers [i, i + 1).
        start: left edge of the window, in cells; may lie outside the row.
        stop: right edge of the window, greater than ``start``.
        outputs: number of equal output cells that share the window.

    Returns:
        float32 (outputs, cells); every row sums to 1. Triangle filter, as wide as an output cell
        when shrinking and as a source cell when enlarging; the row's ends are clamped.
    """
    step = (stop - start) / outputs
    centres = start + (np.arange(outputs) + 0.5) * step
    distance = np.abs(np.clip(centres, 0.5, cells - 0.5)[:, None] - (np.arange(cells) + 0.5))
    weight = np.maximum(0.0, 1.0 - distance / max(step, 1.0))
    matrix: NDArray[np.float32] = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    return matrix
