"""The compiled loops between a dense head's outputs and boxes: see ``dense_detection``.

Loops, and not the array operations of ``distribution_boxes`` and ``suppression``, whose results
these are to the last bit: right after a network has emptied the caches, each of some forty such
operations costs more for its own code and objects than for its numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.kernels import compiled, compiled_inside
from cdvision.heads.distribution_boxes import BINS, SIDES

Floats = NDArray[np.float32]
Number = float | np.float32
Integers = NDArray[np.int64]

_ZERO, _SIDES = np.float32(0), SIDES * BINS
_MAP = "Array(float32, 2, 'C', readonly=True)"
_CHOSEN = "int64[::1]"


@compiled_inside()
def _above(scores: Floats, confidence: Number) -> tuple[Integers, Integers, Floats]:
    """Return cell, class and score of all pairs above a confidence, in the order of memory.

    Few cells have any: so they are counted first, all classes of a cell at once.
    """
    cells, used, total = np.empty(len(scores), np.int64), 0, 0
    for cell in range(len(scores)):
        row, found = scores[cell], np.int32(0)
        # A sum without a branch, and in int32: this form is vectorised.
        for class_id in range(len(row)):
            found += np.int32(row[class_id] > confidence)
        # Written always, kept only if it has any: the next cell overwrites it otherwise.
        cells[used] = cell
        used += int(found > 0)
        total += int(found)
    cell_of, class_of = np.empty(total, np.int64), np.empty(total, np.int64)
    score_of, place = np.empty(total, np.float32), 0
    for cell in cells[:used]:
        for class_id, score in enumerate(scores[cell]):
            if score > confidence:
                cell_of[place], class_of[place], score_of[place] = cell, class_id, score
                place += 1
    return cell_of, class_of, score_of


@compiled_inside()
def _merge(
    scores: Floats, order: Integers, merged: Integers, start: int, middle: int, stop: int
) -> None:
    """Merge two neighbouring parts of ``order``, each by descending score; the left one first."""
    left, right = start, middle
    for place in range(start, stop):
        # Of equal scores the left one goes first: so the sort is stable.
        if left < middle and (right >= stop or scores[order[left]] >= scores[order[right]]):
            merged[place] = order[left]
            left += 1
        else:
            merged[place] = order[right]
            right += 1


@compiled_inside()
def _best_first(scores: Floats) -> Integers:
    """Return the order by descending score; equal scores keep theirs."""
    count, width = len(scores), 1
    # Merge sort from parts of one upwards, between two arrays that swap roles.
    order, merged = np.arange(count), np.empty(count, np.int64)
    while width < count:
        for start in range(0, count, 2 * width):
            middle, stop = min(start + width, count), min(start + 2 * width, count)
            _merge(scores, order, merged, start, middle, stop)
        order, merged = merged, order
        width *= 2
    return order


@compiled_inside()
def _write_centred(centred: Floats, logits: Floats) -> None:
    """Write the logits of four sides, from each of which the side's largest is subtracted."""
    for first in range(0, len(logits), BINS):
        largest = logits[first]
        for place in range(first + 1, first + BINS):
            largest = max(largest, logits[place])
        for place in range(first, first + BINS):
            centred[place] = logits[place] - largest


@compiled(
    f"Tuple((int64[::1], int64[::1], float32[::1], float32[:, ::1]))({_MAP}, {_MAP}, float32,"
    " int64)"
)
def best_candidates(
    scores: Floats, distances: Floats, confidence: float, limit: int
) -> tuple[Integers, Integers, Floats, Floats]:
    """Pick the best pairs as ``top_candidates`` does, with their cells' logits.

    Scores are (M, classes); distances (M, 32) logits, 8 for each side of a box. The answer is
    cell, class and score of each pair, (K,), and (4 K, 8) logits, a side a row, from which the
    row's largest is subtracted.
    """
    cell_of, class_of, score_of = _above(scores, confidence)
    order = _best_first(score_of)[:limit]
    cells, classes = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    found, logits = np.empty(len(order), np.float32), np.empty((len(order), _SIDES), np.float32)
    for rank in range(len(order)):
        place = order[rank]
        cells[rank], classes[rank] = cell_of[place], class_of[place]
        found[rank] = score_of[place]
        _write_centred(logits[rank], distances[cells[rank]])
    return cells, classes, found, logits.reshape(-1, BINS)


@compiled_inside()
def _clipped(value: Number, limit: Number) -> Number:
    """Clip to [0, limit]; what is not a number stays so, and no box with it is visible."""
    if value < _ZERO:
        return _ZERO
    return limit if value > limit else value


@compiled_inside()
def _write_box(box: Floats, sums: Floats, cell: Floats, width: Number, height: Number) -> None:
    """Write the clipped box of a cell (x, y, stride), of the sums of its four sides."""
    x, y, stride = cell[0], cell[1], cell[2]
    # A side lies at the mean bin, weighted sum over sum, in strides; left and top move backwards.
    box[0] = _clipped(x - sums[0, 1] / sums[0, 0] * stride, width)
    box[1] = _clipped(y - sums[1, 1] / sums[1, 0] * stride, height)
    box[2] = _clipped(x + sums[2, 1] / sums[2, 0] * stride, width)
    box[3] = _clipped(y + sums[3, 1] / sums[3, 0] * stride, height)


@compiled_inside()
def _overlap(box: Floats, other: Floats, iou: np.float32) -> bool:
    """Whether intersection over union is larger than ``iou``; 0 / 0 is not."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, _ZERO) * max(height, _ZERO)
    area = (box[2] - box[0]) * (box[3] - box[1])
    other_area = (other[2] - other[0]) * (other[3] - other[1])
    return bool(shared / (area + other_area - shared) > iou)


@compiled(
    f"Tuple(({_CHOSEN}, float32[:, ::1], float32[:, ::1]))({_MAP}, {_MAP}, {_CHOSEN}, {_CHOSEN},"
    " float32, float32, float32, float32, float32, int64)"
)
def distinct_boxes(
    sums: Floats, cells: Floats, cell_of: Integers, class_of: Integers, width: float,
    height: float, across: float, down: float, iou: np.float32, most: int,
) -> tuple[Integers, Floats, Floats]:  # fmt: skip
    """Decode candidates, best first, and drop what overlaps a better box of its class.

    ``sums`` (4 K, 2) are, of each side, the sum of its bins' weights, and of weight times bin;
    ``cell_of`` and ``class_of`` (K,) are the candidates' cells, rows of ``cells`` (M, 3), and
    classes. Boxes are clipped to ``width`` x ``height`` of the content; ``across`` and ``down``
    are pixels of the source over one of the content. Boxes overlap whose intersection over union
    is larger than ``iou``; ``most`` are kept.

    Returns:
        Which candidates are kept, (n,), and their boxes (n, 4) in the input and in the source.
    """
    capacity, count = min(len(cell_of), most), 0
    kept, boxes = np.empty(capacity, np.int64), np.empty((capacity, 4), np.float32)
    for rank in range(len(cell_of)):
        if count == most:
            break
        box, sides = boxes[count], sums[SIDES * rank : SIDES * (rank + 1)]
        # Written to the next free place, and kept there only if nothing speaks against it.
        _write_box(box, sides, cells[cell_of[rank]], width, height)
        distinct = box[2] > box[0] and box[3] > box[1]
        for better in range(count):
            if distinct and class_of[kept[better]] == class_of[rank]:
                distinct = not _overlap(boxes[better], box, iou)
        kept[count] = rank
        count += distinct
    scaled = np.empty((count, 4), np.float32)
    for place in range(count):
        for side in range(SIDES):
            scaled[place, side] = boxes[place, side] * (down if side % 2 else across)
    return kept[:count].copy(), boxes[:count].copy(), scaled
