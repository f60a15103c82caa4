"""From the box head's outputs for every region to the boxes that are kept."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.heads.suppression import suppress_overlaps, top_candidates
from cdvision.heads.two_stage.box_coding import clip_boxes, decode_deltas, large_enough
from cdvision.heads.two_stage.config import TwoStageConfig
from cdvision.results.checks import check_array

Floats = NDArray[np.float32]

_LEAST_SIDE = 1e-2  # pixels


class BoxLimits(NamedTuple):
    """How boxes are chosen."""

    confidence: float  # scores must be larger than this
    iou: float  # boxes of one class whose intersection over union is larger than this overlap
    max_detections: int  # at most this many boxes are kept
    class_agnostic: bool = False  # boxes of all classes compete, not only those of one


class SelectedBoxes(NamedTuple):
    """K boxes, best first."""

    boxes: Floats  # (K, 4) in pixels of the network input
    scores: Floats  # (K,)
    class_ids: NDArray[np.int64]  # (K,) from 0, background not counted


def select_boxes(
    logits: Floats,
    deltas: Floats,
    regions: Floats,
    config: TwoStageConfig,
    content_size: tuple[int, int],
    limits: BoxLimits,
) -> SelectedBoxes:
    """Choose the confident (region, class) pairs and drop those that overlap a better one.

    Args:
        logits: (K, 1 + classes) float32, background first.
        deltas: (K, 4 (1 + classes)) float32.
        regions: (K, 4) float32 from `propose_regions`.
        config: box weights.
        content_size: (width, height) in which boxes end.
        limits: how boxes are chosen.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, as torchvision computes it.
    """
    check_array("regions", regions, shape=("k", 4), dtype=np.float32)
    check_array("logits", logits, shape=(len(regions), "classes"), dtype=np.float32)
    outputs = logits.shape[1]
    check_array("deltas", deltas, shape=(len(regions), 4 * outputs), dtype=np.float32)
    # A softmax over all classes; less the largest logit, no exponential overflows.
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    scores = (weights / weights.sum(axis=1, keepdims=True))[:, 1:]
    confidence, iou, most, class_agnostic = limits
    region, class_id = top_candidates(scores, confidence=confidence, limit=scores.size)
    # Each class moves a region in its own way; class 0 of the scores is output 1.
    shifts = deltas.reshape(-1, outputs, 4)[region, class_id + 1]
    boxes = clip_boxes(decode_deltas(shifts, regions[region], config.box_weights), content_size)
    visible = large_enough(boxes, _LEAST_SIDE)
    boxes, found, class_id = boxes[visible], scores[region, class_id][visible], class_id[visible]
    rivals = np.zeros_like(class_id) if class_agnostic else class_id
    kept = suppress_overlaps(boxes, found, rivals, iou=iou, max_detections=most)
    return SelectedBoxes(boxes[kept], found[kept], class_id[kept])
