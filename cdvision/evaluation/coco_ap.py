"""COCO's average precision of boxes or masks: matched by pycocotools, accumulated for resamples."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.evaluation.answer_formats import DETECTIONS
from cdvision.evaluation.bootstrap import Scorer
from cdvision.evaluation.coco_labels import CocoLabels
from cdvision.evaluation.ranking import RankedDetections, mean_over_classes, precision_at_recalls

if TYPE_CHECKING:
    from cdvision.results import Detections

IouType = Literal["bbox", "segm"]
TASKS: dict[IouType, str] = {"bbox": "detect", "segm": "segment"}
MOST_DETECTIONS = 100  # a photo and class, COCO's own limit
ALL_AREAS = [0.0, 1e10]


class CocoScoring:
    """AP (IoU 0.50:0.95, all sizes, 100 detections) and AP50 over a COCO json.

    Args:
        labels: the json.
        iou_type: ``"bbox"`` scores boxes, ``"segm"`` scores masks.

    Source: T.-Y. Lin et al., "Microsoft COCO: common objects in context", 2014, and pycocotools.
    """

    format = DETECTIONS

    def __init__(self, labels: CocoLabels, iou_type: IouType = "bbox") -> None:
        self.labels, self.iou_type = labels, iou_type
        self.task = TASKS[iou_type]

    def scorer(self, labels: Sequence[int], answers: Sequence[Detections]) -> Scorer:
        """Match once; return what gives ``ap`` and ``ap50`` for weightings of the photos.

        Args:
            labels: image ids.
            answers: detections, one an image; classes are known by their names.
        """
        results = [
            entry
            for image_id, found in zip(labels, answers, strict=True)
            for entry in self._entries(image_id, found)
        ]
        ranked = coco_matches(self.labels, labels, results, self.iou_type)

        def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            return average_precision(ranked, weights)

        return figures

    def _entries(self, image_id: int, found: Detections) -> list[dict[str, Any]]:
        """Return COCO results; classes that the json does not have cannot be right or wrong."""
        if self.iou_type == "segm" and found.mask is None and len(found):
            raise CdvisionError(f"image {image_id}: expected detections with masks, found boxes")
        known = [name in self.labels.categories for name in found.class_name]
        kept = found[np.array(known, bool)]
        numbers = [self.labels.categories[str(name)] for name in kept.class_name]
        entries = kept.to_coco(image_id)
        return [{**e, "category_id": n} for e, n in zip(entries, numbers, strict=True)]


def average_precision(
    classes: Sequence[RankedDetections], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return ``ap`` and ``ap50``, (R,) each, as pycocotools accumulates and summarises them."""
    overall, at_half = [], []
    for ranked in classes:
        by_overlap = np.stack([precision_at_recalls(*curve) for curve in ranked.curves(weights)])
        by_overlap[:, ranked.missing(weights)] = np.nan  # left out of the mean over classes
        overall.append(by_overlap.mean(axis=0))
        at_half.append(by_overlap[0])
    return {"ap": mean_over_classes(overall), "ap50": mean_over_classes(at_half)}


def coco_matches(
    labels: CocoLabels,
    image_ids: Sequence[int],
    results: Sequence[dict[str, Any]],
    iou_type: IouType = "bbox",
) -> list[RankedDetections]:
    """Match results to labels with pycocotools (the ``eval`` extra), one entry a class with labels.

    Args:
        labels: the objects to be found.
        image_ids: the images that were shown, photo 0, photo 1 ... of the rankings.
        results: entries in COCO's form.
        iou_type: overlap of boxes or of masks.

    Raises:
        CdvisionError: pycocotools is missing, or no object is labelled in these images.
    """
    evaluation = _evaluated(labels, image_ids, results, iou_type)
    ids, categories = evaluation.params.imgIds, evaluation.params.catIds
    place = {image_id: photo for photo, image_id in enumerate(image_ids)}
    photos = np.array([place[image_id] for image_id in ids])
    by_class = [
        _ranked(evaluation.evalImgs[start : start + len(ids)], photos)
        for start in range(0, len(categories) * len(ids), len(ids))
    ]
    ranked = [entry for entry in by_class if entry.positives.any()]
    if not ranked:
        raise CdvisionError(f"{labels.path}: no object is labelled in these {len(ids)} images")
    return ranked


def _evaluated(
    labels: CocoLabels, image_ids: Sequence[int], results: Sequence[dict[str, Any]], iou_type: str
) -> Any:
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise CdvisionError("AP needs pycocotools: pip install 'cdvision[eval]'") from error
    found = [
        {**entry, "id": number + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for number, entry in enumerate(results)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; nobody asked
        truth, detected = _indexed(labels, labels.annotations), _indexed(labels, found)
        evaluation = COCOeval(truth, detected, iou_type)
        evaluation.params.imgIds = list(image_ids)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [ALL_AREAS], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _indexed(labels: CocoLabels, annotations: Sequence[Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": list(labels.images),
        "annotations": [dict(entry) for entry in annotations],  # pycocotools writes into them
        "categories": [{"id": number, "name": name} for name, number in labels.categories.items()],
    }
    coco.createIndex()
    return coco


def _ranked(images: Sequence[dict[str, Any] | None], photos: NDArray[np.int64]) -> RankedDetections:
    """Join pycocotools' matches of one class over the images, best detection first."""
    present = [(photo, entry) for photo, entry in zip(photos, images, strict=True) if entry]
    positives = np.zeros(len(photos))
    for photo, entry in present:
        positives[photo] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
    overlaps = len(present[0][1]["dtMatches"]) if present else 0
    empty = np.zeros((overlaps, 0))
    scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for _, entry in present)])
    order = np.argsort(-scores, kind="mergesort")  # stable, as pycocotools: ties in its order
    matched = np.concatenate([empty, *(entry["dtMatches"] for _, entry in present)], axis=1)
    ignored = np.concatenate([empty, *(entry["dtIgnore"] for _, entry in present)], axis=1)
    counts = [len(entry["dtScores"]) for _, entry in present]
    photo = np.repeat(np.array([photo for photo, _ in present], np.int64), counts)
    ignored_in_order = ignored[:, order] != 0
    return RankedDetections(
        photo[order], (matched[:, order] != 0) & ~ignored_in_order, ignored_in_order, positives
    )
