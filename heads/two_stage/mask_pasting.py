"""From the mask head's small maps to run-length masks of the source image.

A map is enlarged to its box and thresholded there; the runs are counted inside the box, so a small
object in a large photo costs its own pixels and not the photo's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import check_array, check_image_size
from cdvision.results.masks import Rle, compress_counts

Floats = NDArray[np.float32]

_BORDER = 1  # empty cells around a map, so that masks fade out at the edge of a box


def paste_masks(
    probabilities: Floats, boxes: Floats, image_size: tuple[int, int], *, threshold: float = 0.5
) -> tuple[Rle, ...]:
    """Lay every map over its box and encode what is more probable than a threshold.

    Of ``probabilities`` (K, m, m) float32 and ``boxes`` (K, 4) float32 in pixels of the image come
    K COCO run-length masks: the pixels that torchvision's `paste_masks_in_image` sets.

    Source: He et al., "Mask R-CNN", ICCV 2017, inference.
    """
    check_array("boxes", boxes, shape=("k", 4), dtype=np.float32)
    side = probabilities.shape[-1]
    check_array("masks", probabilities, shape=(len(boxes), side, side), dtype=np.float32)
    size = check_image_size(image_size)
    # A map with its border covers more than the box, by the same share on all sides.
    frames = _frames(boxes, (side + 2 * _BORDER) / side)
    padded = np.pad(probabilities, ((0, 0), (_BORDER,) * 2, (_BORDER,) * 2))
    return tuple(
        _pasted(probability, frame, size, threshold)
        for probability, frame in zip(padded, frames.tolist(), strict=True)
    )


def _frames(boxes: Floats, growth: float) -> NDArray[np.int64]:
    """Grow boxes about their centres by the border's share, to whole pixels."""
    centre = (boxes[:, 2:] + boxes[:, :2]) * np.float32(0.5)
    half = (boxes[:, 2:] - boxes[:, :2]) * np.float32(0.5) * np.float32(growth)
    frames: NDArray[np.int64] = np.concatenate([centre - half, centre + half], 1).astype(np.int64)
    return frames


def _pasted(
    probability: Floats, frame: list[int], image_size: tuple[int, int], threshold: float
) -> Rle:
    width, height = image_size
    left, top, right, bottom = frame
    columns, rows = _visible(left, right, width), _visible(top, bottom, height)
    across = _enlargement(probability.shape[1], right - left + 1, columns - left)
    down = _enlargement(probability.shape[0], bottom - top + 1, rows - top)
    # Transposed, because COCO's runs go down the columns.
    inside = across @ probability.T @ down.T > np.float32(threshold)
    column, row = np.nonzero(inside)
    return _runs(columns[column] * height + rows[row], (height, width))


def _visible(first: int, last: int, size: int) -> NDArray[np.int64]:
    """Return the pixels of an axis that are in the image, at least one pixel being covered."""
    return np.arange(max(first, 0), min(max(last, first) + 1, size))


def _enlargement(cells: int, pixels: int, wanted: NDArray[np.int64]) -> Floats:
    """Return the (len(wanted), cells) matrix that interpolates linearly from cells to pixels."""
    # A pixel's centre in cells, whose centres lie at k + 0.5; at the edges the last cell holds.
    scale = np.float32(cells / max(pixels, 1))
    place = np.maximum((wanted.astype(np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    low = np.minimum(place.astype(np.int64), cells - 1)
    share = (place - low).astype(np.float32)
    matrix = np.zeros((len(wanted), cells), dtype=np.float32)
    line = np.arange(len(wanted))
    matrix[line, low] = 1 - share
    matrix[line, np.minimum(low + 1, cells - 1)] += share
    return matrix


def _runs(positions: NDArray[np.int64], size: tuple[int, int]) -> Rle:
    """Encode the ascending positions of the foreground in a column-major image."""
    height, width = size
    # A run ends where the next position is not the neighbour.
    gaps = np.flatnonzero(np.diff(positions) != 1)
    starts = positions[np.concatenate([[0], gaps + 1])] if len(positions) else positions
    ends = positions[np.concatenate([gaps, [-1]])] + 1 if len(positions) else positions
    edges = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    # Foreground to the last pixel: no run of background follows.
    if counts[-1] == 0:
        counts = counts[:-1]
    return Rle(size=[height, width], counts=compress_counts(counts.astype(np.int64)))
