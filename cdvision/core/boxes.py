"""From a dense head's outputs to boxes, masks and pooled regions. Arrays are C-contiguous."""

from __future__ import annotations

from ctypes import byref, c_size_t
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.core.library import LIBRARY, Frame, address, check

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

SIDES, BINS = 4, 8


class Candidates(NamedTuple):
    """Pairs of cell and class, best first: (K,) each, and (4 K, 8) logits, a side a row."""

    cell: Integers
    class_id: Integers
    score: Floats
    logits: Floats


def best_candidates(scores: Floats, distances: Floats, confidence: float, limit: int) -> Candidates:
    """Pick the best pairs above a confidence, as ``top_candidates`` does.

    Scores are (M, classes); distances (M, 32) logits, 8 for each side of a box. From each row of
    the answer's logits its largest is subtracted.
    """
    most = min(limit, scores.size)
    cell, class_id, score = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, "f4")
    logits, found = np.empty((SIDES * most, BINS), np.float32), c_size_t()
    check(
        LIBRARY.cdv_best_candidates(
            address(scores), address(distances), *scores.shape, confidence, most,
            address(cell), address(class_id), address(score), address(logits), byref(found),
        )
    )  # fmt: skip
    k = found.value
    return Candidates(cell[:k], class_id[:k], score[:k], logits[: SIDES * k])


def distinct_boxes(
    sums: Floats,
    cells: Floats,
    cell_of: Integers,
    class_of: Integers,
    frame: tuple[float, float, float, float],
    iou: np.float32,
    most: int,
) -> tuple[Integers, Floats, Floats]:
    """Decode candidates, best first, and drop what overlaps a better box of its class.

    ``sums`` (4 K, 2) are, of each side, the sum of its bins' weights, and of weight times bin;
    ``cell_of`` and ``class_of`` (K,) are the candidates' cells, rows of ``cells`` (M, 3), and
    classes. ``frame`` is width and height of the content, to which boxes are clipped, and pixels of
    the source over one of the content, across and down. Boxes overlap whose intersection over union
    is larger than ``iou``; ``most`` are kept.

    Returns:
        Which candidates are kept, (n,), and their boxes (n, 4) in the input and in the source.
    """
    capacity, found = max(min(len(cell_of), most), 1), c_size_t()
    kept = np.empty(capacity, np.int64)
    boxes, scaled = np.empty((capacity, SIDES), np.float32), np.empty((capacity, SIDES), np.float32)
    check(
        LIBRARY.cdv_distinct_boxes(
            address(sums), address(cells), len(cells), address(cell_of), address(class_of),
            len(cell_of), byref(Frame(*frame)), iou, most,
            address(kept), address(boxes), address(scaled), byref(found),
        )
    )  # fmt: skip
    n = found.value
    return kept[:n], boxes[:n], scaled[:n]


def mask_lines(
    maps: Floats,
    network: Floats,
    corner: tuple[int, int],
    across: Floats,
    down: Floats,
    cells: Integers,
    shares: Floats,
) -> Floats:
    """Return an object's logits (columns, rows) at columns between a window's cells.

    The window begins at ``corner`` (row, column) of ``maps`` (K, H, W); ``across`` (w,) and
    ``down`` (h,) are the places of its columns and rows in the box, and ``network`` is as in
    ``dynamic_masks``. ``cells`` are the window's columns on the far side of which each column
    lies, ``shares`` its share of the next one.
    """
    lines = np.empty((len(cells), len(down)), np.float32)
    check(
        LIBRARY.cdv_mask_lines(
            address(maps), *maps.shape, address(network), len(network), *map(int, corner),
            address(across), len(across), address(down), len(down),
            address(cells), address(shares), len(cells), address(lines),
        )
    )  # fmt: skip
    return lines


def mask_positions(
    lines: Floats, centres: NDArray[np.float64], first: int, rows: tuple[int, int], height: int
) -> Integers:
    """Return the pixels, column by column, at which a mask begins and ends, ascending.

    A line (of ``lines`` (columns, samples)) begins and ends in the background; ``rows`` are the
    first that may be set and the one after the last.
    """
    columns, samples = lines.shape
    positions, found = np.empty(columns * (samples + 1), np.int64), c_size_t()
    place = int(first), *map(int, rows), int(height)
    source = address(lines), columns, samples, address(centres)
    check(LIBRARY.cdv_mask_positions(*source, *place, address(positions), byref(found)))
    return positions[: found.value]


def mask_text(positions: Integers, pixels: int) -> bytes:
    """Write the runs between positions, and up to the last pixel, as COCO's string."""
    # 64 bits, five a character, are 13 characters at the most.
    text, written = np.empty(13 * (len(positions) + 1), np.uint8), c_size_t()
    source = address(positions), len(positions), pixels
    check(LIBRARY.cdv_mask_text(*source, address(text), byref(written)))
    return text[: written.value].tobytes()


def pool_regions(
    level: Floats, boxes: Floats, rows: Integers, samples: int, pooled: Floats
) -> None:
    """Pool regions (K, 4), in cells of ``level`` (h, w, C), to ``rows`` of (N, C, cells, cells)."""
    source = address(level), *level.shape, address(boxes), address(rows), len(boxes)
    target = pooled.shape[2], samples, address(pooled), len(pooled)
    check(LIBRARY.cdv_pool_regions(*source, *target))
