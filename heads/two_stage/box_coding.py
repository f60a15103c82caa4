"""Boxes from anchors and deltas, and their limits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# A box grows by at most this factor, or the exponential of a wild delta would overflow.
_LARGEST = np.float32(math.log(1000.0 / 16))
_HALF = np.float32(0.5)


def decode_deltas(deltas: Floats, references: Floats, weights: Sequence[float]) -> Floats:
    """Move and scale reference boxes by what a network predicted for them.

    >>> references = np.array([[0, 0, 10, 20]], dtype=np.float32)
    >>> deltas = np.array([[0.1, 0, np.log(2), 0]], dtype=np.float32)
    >>> decode_deltas(deltas, references, (1, 1, 1, 1)).tolist()
    [[-4.0, 0.0, 16.0, 20.0]]

    Args:
        deltas: (K, 4) float32: shift of the centre in widths and heights, log of the scale.
        references: (K, 4) float32 left, top, right, bottom.
        weights: four numbers that the deltas are divided by.

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
    width, height = size
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))


def large_enough(boxes: Floats, least: float) -> NDArray[np.int64]:
    """Return the numbers of the (K, 4) boxes whose sides both measure at least so many pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.flatnonzero((sides >= np.float32(least)).all(axis=1))
