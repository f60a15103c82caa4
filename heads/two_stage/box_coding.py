"""Boxes from anchors and deltas, and their limits: equal to torchvision's, anchors to the bit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# A box grows by at most this factor, or the exponential of a wild delta would overflow.
_LARGEST = np.float32(math.log(1000.0 / 16))
_HALF = np.float32(0.5)


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> Floats:
    """Return the anchors around the origin: every size, for every height / width in turn.

    >>> cell_anchors([32], [0.5, 1.0]).astype(int).tolist()
    [[-23, -11, 23, 11], [-16, -16, 16, 16]]

    They are (ratios x sizes, 4) float32, rounded to whole pixels.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015.
    """
    # Height times root and width over root: the ratio changes, the area stays.
    root = np.sqrt(np.asarray(aspect_ratios, dtype=np.float32))
    scale = np.asarray(sizes, dtype=np.float32)
    height = (root[:, None] * scale).ravel()
    width = ((1 / root)[:, None] * scale).ravel()
    return np.round(np.stack([-width, -height, width, height], axis=1) / 2)


def anchors_at(
    places: NDArray[np.int64], anchors: Floats, grid: tuple[int, int], input_size: tuple[int, int]
) -> Floats:
    """Return the anchors (K, 4) with the numbers ``places`` (K,) of one pyramid level.

    Numbers go row by row, in a row cell by cell, in a cell in the order of ``anchors``. Sizes are
    (rows, columns) of the level's grid, and (width, height) of the network input.
    """
    rows, columns = grid
    cell, number = np.divmod(places, len(anchors))
    row, column = np.divmod(cell, columns)
    # The distance of two cells is their share of the input in whole pixels: torchvision's rule,
    # which matters where a level's last cell hangs over the edge.
    x, y = column * (input_size[0] // columns), row * (input_size[1] // rows)
    shifts: Floats = np.stack([x, y, x, y], axis=1).astype(np.float32)
    return shifts + anchors[number]


def decode_deltas(deltas: Floats, references: Floats, weights: Sequence[float]) -> Floats:
    """Move and scale reference boxes (K, 4) by the deltas (K, 4) that a network predicted.

    >>> references = np.array([[0, 0, 10, 20]], dtype=np.float32)
    >>> deltas = np.array([[0.1, 0, np.log(2), 0]], dtype=np.float32)
    >>> decode_deltas(deltas, references, (1, 1, 1, 1)).tolist()
    [[-4.0, 0.0, 16.0, 20.0]]

    Deltas, divided by four ``weights``, are a shift of the centre in widths and heights, and the
    log of the scale.

    Source: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C.
    """
    size = references[:, 2:] - references[:, :2]
    centre = references[:, :2] + _HALF * size
    scaled = deltas / np.asarray(weights, dtype=np.float32)
    moved = scaled[:, :2] * size + centre
    half = _HALF * (np.exp(np.minimum(scaled[:, 2:], _LARGEST)) * size)
    return np.concatenate([moved - half, moved + half], axis=1)


def clip_boxes(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Cut (K, 4) boxes at the edges of an image of this (width, height)."""
    return np.clip(boxes, 0, np.array([*size, *size], dtype=np.float32))


def large_enough(boxes: Floats, least: float) -> NDArray[np.int64]:
    """Return the numbers of the (K, 4) boxes whose sides both measure at least so many pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.flatnonzero((sides >= np.float32(least)).all(axis=1))


def sigmoid(logits: Floats) -> Floats:
    """Return the probability of yes for every logit, float32 of any shape."""
    # exp(200) is inf, and 1 / inf = 0 is right.
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)
