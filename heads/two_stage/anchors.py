"""Anchor boxes of a pyramid, equal to torchvision's to the bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Floats:
    """Return the anchors around the origin: every size, for every height / width in turn.

    >>> cell_anchors([32], [0.5, 1.0]).astype(int).tolist()
    [[-23, -11, 23, 11], [-16, -16, 16, 16]]

    Returns:
        (ratios x sizes, 4) float32 left, top, right, bottom, rounded to whole pixels.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015.
    """
    root = np.sqrt(np.asarray(aspect_ratios, dtype=np.float32))
    scale = np.asarray(sizes, dtype=np.float32)
    height = (root[:, None] * scale).ravel()
    width = ((1 / root)[:, None] * scale).ravel()
    return np.round(np.stack([-width, -height, width, height], axis=1) / 2)


def anchors_at(
    places: NDArray[np.int64], anchors: Floats, grid: tuple[int, int], input_size: tuple[int, int]
) -> Floats:
    """Return the anchors of some places of one pyramid level.

    Args:
        places: (K,) int64 numbers of anchors, row by row, in a row cell by cell, in a cell in the
            order of `anchors`.
        anchors: (A, 4) float32 from `cell_anchors`.
        grid: (rows, columns) of the level.
        input_size: (width, height) of the network input. The distance of two cells is their share
            of it in whole pixels: torchvision's rule, which matters where a level's last cell
            hangs over the edge.
    """
    rows, columns = grid
    cell, number = np.divmod(places, len(anchors))
    row, column = np.divmod(cell, columns)
    x, y = column * (input_size[0] // columns), row * (input_size[1] // rows)
    shifts: Floats = np.stack([x, y, x, y], axis=1).astype(np.float32)
    return shifts + anchors[number]
