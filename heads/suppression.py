"""Class-wise greedy non-maximum suppression, in blocks so that numpy does the work.

Comparing all pairs of 1000 candidates costs millions of divisions, and comparing one by one a
Python round trip each. A block is compared with the boxes kept so far and with itself, and the
search ends once enough boxes are kept.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import ResultError, check_array

_BLOCK = 128


def top_candidates(
    scores: NDArray[np.float32], *, confidence: float, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pick the best (cell, class) pairs above a confidence; a cell may give several classes.

    At most ``limit`` pairs of ``scores`` (M, C) float32 are kept. The answer is two (K,) int64
    arrays, cell and class, by descending score; equal scores keep the order of their cells.
    """
    check_array("scores", scores, shape=("m", "c"), dtype=np.float32)
    flat = scores.ravel()
    picked = np.flatnonzero(flat > np.float32(confidence))
    order = np.argsort(-flat[picked], kind="stable")[:limit]
    cell, class_id = np.divmod(picked[order], max(scores.shape[1], 1))
    return cell, class_id


def suppress_overlaps(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    *,
    iou: float = 0.6,
    max_detections: int = 100,
) -> NDArray[np.int64]:
    """Keep the best boxes: drop each that overlaps a better one of its class.

    >>> boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9]], dtype=np.float32)
    >>> scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    >>> suppress_overlaps(boxes, scores, np.array([0, 0, 1]))
    array([0, 2])

    Boxes (N, 4) and scores (N,) are float32, classes (N,) int64. Boxes whose intersection over
    union is larger than ``iou`` overlap. The answer is (K,) int64 indices by descending score, as
    `torchvision.ops.batched_nms` gives them.
    """
    check_array("boxes", boxes, shape=("n", 4), dtype=np.float32)
    check_array("scores", scores, shape=(len(boxes),), dtype=np.float32)
    check_array("class_ids", class_ids, shape=(len(boxes),), dtype=np.int64)
    if max_detections < 1:
        raise ResultError(f"max_detections must be at least 1, but got {max_detections}")
    order = np.argsort(-scores, kind="stable")
    threshold = largest_below(iou)
    return order[_greedy_in_order(boxes[order], class_ids[order], threshold, max_detections)]


def _greedy_in_order(
    boxes: NDArray[np.float32], class_ids: NDArray[np.int64], iou: np.float32, max_detections: int
) -> NDArray[np.int64]:
    kept = np.zeros(0, dtype=np.int64)
    # One block usually yields the 100 boxes that are asked for; 256 costs half as much again.
    for start in range(0, len(boxes), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        if len(kept):
            hit = _overlaps(boxes, class_ids, kept, block, iou)
            block = block[~hit.any(axis=0)]
        survivors = _greedy_in_block(_overlaps(boxes, class_ids, block, block, iou))
        kept = np.concatenate([kept, block[survivors]])
        if len(kept) >= max_detections:
            break
    return kept[:max_detections]


def _greedy_in_block(overlaps: NDArray[np.bool_]) -> list[int]:
    """Return the rows that no kept row before them overlaps."""
    # A row of bits is one Python integer: whatever a kept row overlaps is dropped by one "or".
    rows = [int.from_bytes(row, "little") for row in np.packbits(overlaps, 1, "little")]
    dropped, survivors = 0, []
    for number, row in enumerate(rows):
        if not dropped >> number & 1:
            survivors.append(number)
            dropped |= row
    return survivors


def _overlaps(
    boxes: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    iou: np.float32,
) -> NDArray[np.bool_]:
    """Compare every box of `first` with every one of `second`, and their classes."""
    left, top, right, bottom = boxes[first].T[:, :, None]
    other_left, other_top, other_right, other_bottom = boxes[second].T[:, None, :]
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (right - left) * (bottom - top)
    other_area = (other_right - other_left) * (other_bottom - other_top)
    # Two empty boxes give 0 / 0, which is not larger than anything: they do not overlap.
    with np.errstate(invalid="ignore"):
        ratio = shared / (area + other_area - shared)
    same_class = class_ids[first][:, None] == class_ids[second]
    overlaps: NDArray[np.bool_] = (ratio > iou) & same_class
    return overlaps


@lru_cache(maxsize=64)
def largest_below(iou: float) -> np.float32:
    """Return the largest float32 that is not above a float64 threshold."""
    # A float32 ratio exceeds it exactly when it exceeds the float64 number, and no array has to
    # become float64 for the comparison.
    rounded = np.float32(iou)
    return rounded if float(rounded) <= iou else np.nextafter(rounded, np.float32(-np.inf))
