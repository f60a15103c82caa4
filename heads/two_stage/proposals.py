"""Region proposals: the best places of every pyramid level, decoded and thinned out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cdvision.heads.suppression import suppress_overlaps
from cdvision.heads.two_stage.box_coding import (
    anchors_at,
    cell_anchors,
    clip_boxes,
    decode_deltas,
    large_enough,
    sigmoid,
)
from cdvision.heads.two_stage.config import TwoStageConfig
from cdvision.results.checks import check_array

Floats = NDArray[np.float32]
Size = tuple[int, int]

_LEAST_SIDE = 1e-3  # pixels
_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


def propose_regions(
    dense: Mapping[str, Floats], config: TwoStageConfig, *, input_size: Size, content_size: Size
) -> Floats:
    """Return the regions that are worth a look, (K, 4) float32 boxes in the input, best first.

    Args:
        dense: for every level k, ``objectness<k>`` (A, h, w) float32 logits and ``deltas<k>``
            (4 A, h, w) float32.
        config: anchors, numbers and thresholds; K is at most ``config.proposals``.
        input_size: (width, height) of the network input.
        content_size: (width, height) of the photo in it, where regions end.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, as torchvision computes it.
    """
    boxes, scores = [], []
    for level in range(len(config.anchor_sizes)):
        logits, found = _level_regions(dense, level, config, input_size, content_size)
        boxes.append(found)
        scores.append(sigmoid(logits))
    score, box = np.concatenate(scores), np.concatenate(boxes)
    order = np.argsort(-score, kind="stable")
    best: Floats = box[order[score[order] >= config.proposal_score][: config.proposals]]
    return best


def _level_regions(
    dense: Mapping[str, Floats], level: int, config: TwoStageConfig, input_size: Size, content: Size
) -> tuple[Floats, Floats]:
    """Return logits and boxes of one level, best first; levels do not suppress one another."""
    anchors = cell_anchors(config.anchor_sizes[level], config.aspect_ratios[level])
    objectness, deltas = dense[f"objectness{level}"], dense[f"deltas{level}"]
    check_array("objectness", objectness, shape=(len(anchors), "h", "w"), dtype=np.float32)
    rows, columns = objectness.shape[1:]
    check_array("deltas", deltas, shape=(4 * len(anchors), rows, columns), dtype=np.float32)
    # Anchors of a cell side by side, as ``anchors_at`` counts them.
    flat = objectness.transpose(1, 2, 0).ravel()
    places = best_first(flat, config.proposals_per_level)
    cell, number = np.divmod(places, len(anchors))
    shifts = deltas.reshape(len(anchors), 4, -1)[number, :, cell]
    references = anchors_at(places, anchors, (rows, columns), input_size)
    boxes = clip_boxes(decode_deltas(shifts, references, _WEIGHTS), content)
    visible = large_enough(boxes, _LEAST_SIDE)
    boxes, logits = boxes[visible], flat[places[visible]]
    # All of one class, so that any two may overlap.
    one_class = np.zeros(len(boxes), dtype=np.int64)
    kept = suppress_overlaps(
        boxes, logits, one_class, iou=config.proposal_iou, max_detections=config.proposals
    )
    return logits[kept], boxes[kept]


def best_first(values: Floats, count: int) -> NDArray[np.int64]:
    """Return the numbers of the `count` largest values, largest first; equal ones keep order.

    >>> best_first(np.array([1, 3, 2, 3], dtype=np.float32), 3).tolist()
    [1, 3, 2]
    """
    # A partition is linear: only what may be among the best is sorted.
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        candidates = np.flatnonzero(values >= least)
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(-values[candidates], kind="stable")[:count]]
