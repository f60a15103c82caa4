"""Run-length masks from samples along the columns, without ever making the pixels.

Between two samples of a column a linear interpolation changes its sign at most once, and where is
known in closed form. So a mask of a 12-megapixel photo costs what the same mask of a thumbnail's
height costs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.results.masks import Rle, compress_counts

Floats = NDArray[np.float32]


def runs_of_columns(
    lines: Floats, centres: Floats, first: int, rows: tuple[int, int], size: tuple[int, int]
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
    width, height = size
    count = lines.shape[1]
    inside = np.zeros((len(lines), count + 2), dtype=np.bool_)
    np.greater(lines, 0, out=inside[:, 1:-1])
    changes = np.flatnonzero(inside[:, 1:] != inside[:, :-1])
    column = changes // (count + 1)
    place = changes - column * (count + 1)
    edges = _edges(lines, centres, column, place, rows)
    positions = (column + first) * height + edges
    # A run of no pixel begins where it ends, and the end of a column is the start of the next.
    if (positions[1:] == positions[:-1]).any():
        values, times = np.unique(positions, return_counts=True)
        positions = values[times % 2 == 1]
    counts = np.empty(len(positions) + 1, np.int64)
    counts[:-1], counts[-1] = positions, width * height
    counts[1:] -= positions
    if counts[-1] == 0:  # the last run is foreground to the last pixel
        counts = counts[:-1]
    return Rle(size=[height, width], counts=compress_counts(counts))


def _edges(
    lines: Floats,
    centres: Floats,
    column: NDArray[np.int64],
    place: NDArray[np.int64],
    rows: tuple[int, int],
) -> NDArray[np.int64]:
    """Return the first row behind each change of sign; a line begins and ends in the background."""
    top, bottom = rows
    last = lines.shape[1] - 1
    above, below = np.maximum(place - 1, 0), np.minimum(place, last)
    before, after = lines[column, above], lines[column, below]
    between = before != after
    share = np.divide(before, before - after, out=np.zeros_like(before), where=between)
    crossing = centres[above] + share * (centres[below] - centres[above])
    edges = np.ceil(crossing - np.float32(0.5)).astype(np.int64)
    edges[place == 0], edges[place == last + 1] = top, bottom
    inside: NDArray[np.int64] = np.minimum(np.maximum(edges, top), bottom)
    return inside
