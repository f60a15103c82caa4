"""Accuracy over labelled photos: COCO average precision and top-1 / top-5, with real bytes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from cdvision.errors import CdvisionError
from cdvision.evaluation.labelled import LabelledPhoto

if TYPE_CHECKING:
    from cdvision.results import Classification, Detections

# A detector's precision-recall curve needs its weak boxes too; NanoDet's own evaluation uses 0.05.
EVALUATION_CONFIDENCE = 0.05


@dataclass(frozen=True)
class DetectionAccuracy:
    """Average precision over a COCO set at one rate."""

    photos: int
    mean_bytes: float
    ap: float
    ap50: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


@dataclass(frozen=True)
class ClassificationAccuracy:
    """Share of photos whose class is the first, or among the first five."""

    photos: int
    mean_bytes: float
    top1: float
    top5: float

    def to_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return asdict(self)


def detection_accuracy(
    photos: Iterable[LabelledPhoto],
    annotations: Path,
    detect: Callable[[bytes], tuple[Detections, int]],
    *,
    label: str = "",
) -> DetectionAccuracy:
    """Measure AP (IoU 0.50:0.95, all sizes, 100 boxes) over the photos of a COCO json.

    Args:
        photos: with image ids as labels.
        annotations: the COCO json; category ids are 1 + class index.
        detect: bytes of a photo's file -> detections at low confidence, and bytes sent.
        label: shown beside the progress bar.
    """
    results: list[dict[str, Any]] = []
    sizes = []
    for photo in tqdm(photos, desc=label, unit="photo", disable=None):
        detections, size = detect(photo.data)
        results += detections.to_coco(photo.label)
        sizes.append(size)
    ap, ap50 = coco_average_precision(annotations, results)
    return DetectionAccuracy(len(sizes), float(np.mean(sizes)), ap, ap50)


def coco_average_precision(
    annotations: Path, results: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """Return AP and AP50 of box results in COCO form; needs the ``eval`` extra."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise CdvisionError("AP needs pycocotools: pip install 'cdvision[eval]'") from error
    if not results:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; nobody asked
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(list(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def classification_accuracy(
    photos: Iterable[LabelledPhoto],
    classify: Callable[[bytes], tuple[Classification, int]],
    *,
    label: str = "",
) -> ClassificationAccuracy:
    """Measure top-1 and top-5 over photos whose labels are class indices."""
    first, fifth, sizes = [], [], []
    for photo in tqdm(photos, desc=label, unit="photo", disable=None):
        classification, size = classify(photo.data)
        first.append(photo.label == classification.class_id[0])
        fifth.append(photo.label in classification.class_id[:5])
        sizes.append(size)
    return ClassificationAccuracy(
        len(sizes), float(np.mean(sizes)), float(np.mean(first)), float(np.mean(fifth))
    )
