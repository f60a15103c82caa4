"""RoIAlign: every region of a pyramid as a small map of equal size.

The core's loop runs over channels innermost, so that it vectorises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdvision.core.boxes import pool_regions as pool_level
from cdvision.results.checks import check_array

Floats = NDArray[np.float32]

# Where a region of 224 x 224 pixels belongs: the level of stride 16 = 2^4.
_CANONICAL_SIDE, _CANONICAL_LEVEL, _MARGIN = 224, 4, 1e-6


def pool_regions(
    pyramid: Sequence[Floats], boxes: Floats, *, strides: Sequence[int], cells: int, samples: int
) -> Floats:
    """Pool every region from the pyramid level that fits its size.

    Args:
        pyramid: (C, h, w) float32 maps, one for every stride.
        boxes: (K, 4) float32 in pixels of the network input.
        strides: of the maps, powers of two, finest first.
        cells: side of the result.
        samples: sampling points, a side of a cell.

    Returns:
        (K, C, cells, cells) float32, as `torchvision.ops.MultiScaleRoIAlign` gives it.

    Source: He et al., "Mask R-CNN", ICCV 2017; levels after Lin et al., "Feature Pyramid
    Networks", CVPR 2017, equation 1.
    """
    check_array("boxes", boxes, shape=("k", 4), dtype=np.float32)
    channels = pyramid[0].shape[0]
    pooled = np.zeros((len(boxes), channels, cells, cells), dtype=np.float32)
    levels = assign_levels(boxes, strides)
    for number, (stride, level) in enumerate(zip(strides, pyramid, strict=True)):
        check_array("pyramid map", level, shape=(channels, "h", "w"), dtype=np.float32)
        rows = np.flatnonzero(levels == number)
        if len(rows):
            channels_last = np.ascontiguousarray(level.transpose(1, 2, 0))
            scaled = np.ascontiguousarray(boxes[rows] / np.float32(stride))
            pool_level(channels_last, scaled, rows, samples, pooled)
    return pooled


def assign_levels(boxes: Floats, strides: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of the map that each of (K, 4) boxes is pooled from.

    >>> boxes = np.array([[0, 0, 224, 224], [0, 0, 30, 30]], dtype=np.float32)
    >>> assign_levels(boxes, (4, 8, 16, 32)).tolist()
    [2, 0]
    """
    # Strides are powers of two, so a level's number is the logarithm of its stride.
    first, last = (int(math.log2(strides[end])) for end in (0, -1))
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    with np.errstate(divide="ignore"):  # an empty box: minus infinity, so the finest level
        octave = np.log2(side / np.float32(_CANONICAL_SIDE))
    level = np.floor(np.float32(_CANONICAL_LEVEL) + octave + np.float32(_MARGIN))
    levels: NDArray[np.int64] = (np.clip(level, first, last) - first).astype(np.int64)
    return levels
