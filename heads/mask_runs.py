"""Run-length masks from samples along the columns, without ever making the pixels.

Between two samples of a column a linear interpolation changes its sign at most once, and where is
known in closed form. So a mask of a 12-megapixel photo costs what the same mask of a thumbnail's
height costs. One compiled loop and not array operations: those take three times as long when a
network has just emptied the caches, as one always has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.results.masks import Rle

Floats = NDArray[np.float32]
Size = tuple[int, int]


def runs_of_columns(
    lines: Floats,
    centres: NDArray[np.floating],
    first: int,
    rows: tuple[int, int],
    size: Size,
) -> Rle:
    """Encode where the columns of a picture are positive.

    Args:
        lines: (columns, samples) float32, one line a column of pixels.
        centres: (samples,) ascending places of the samples in pixels; before the first and behind
            the last, a line is constant. The centre of pixel 0 lies at 0.5.
        first: the picture's column that the first line belongs to.
        rows: the first row that may be set, and the one after the last.
        size: (width, height) of the picture.
    """
    from cdvision.heads.mask_kernels import positions_of, text_of  # numba: when first needed

    width, height = size
    lines = np.ascontiguousarray(lines, np.float32)
    places = np.ascontiguousarray(centres, np.float64)
    positions = positions_of(lines, places, first, rows[0], rows[1], height)
    return Rle(size=[height, width], counts=text_of(positions, width * height).tobytes())
