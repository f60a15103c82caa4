"""PASCAL VOC's average precision at IoU 0.5, difficult objects ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.evaluation.answer_formats import DETECTIONS
from cdvision.evaluation.bootstrap import Scorer
from cdvision.evaluation.coco_labels import CocoLabels
from cdvision.evaluation.ranking import RankedDetections, area_under_curve, mean_over_classes

if TYPE_CHECKING:
    from cdvision.results import Detections

OVERLAP = 0.5
RENAMED = {
    "airplane": "aeroplane",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}
ALIKE = "bicycle bird boat bottle bus car cat chair cow dog horse person sheep train"
# COCO's name -> VOC's name; COCO's other sixty classes have no counterpart.
COCO_TO_VOC = {**RENAMED, **{name: name for name in ALIKE.split()}}
Boxes = NDArray[np.float64]


class VocScoring:
    """AP50 as VOC measures it from 2010 on: the area under interpolated precision over recall.

    A detection belongs to the labelled object of its class and photo that it overlaps most: it is
    right where the overlap is at least 0.5 and no better detection took that object, wrong where
    one did, and counts neither way where the object is ignored (difficult). Boxes are continuous:
    VOC's own tool adds a pixel to every side, which moves an overlap by some thousandths.

    Args:
        labels: a COCO-format json with VOC's classes and an ``ignore`` flag on objects.

    Source: M. Everingham et al., "The PASCAL visual object classes challenge", 2010 and 2015.
    """

    format = DETECTIONS
    task = "detect"

    def __init__(self, labels: CocoLabels) -> None:
        self.labels = labels

    def scorer(self, labels: Sequence[int], answers: Sequence[Detections]) -> Scorer:
        """Match once; return what gives ``ap50`` for weightings of the photos.

        Args:
            labels: image ids.
            answers: detections, one an image; COCO's class names are translated to VOC's.
        """
        objects = _objects_by_class(self.labels, labels)
        found = _found_by_class(answers)
        ranked = [
            _ranked(found.get(name, []), objects[number])
            for name, number in self.labels.categories.items()
        ]
        ranked = [entry for entry in ranked if entry.positives.any()]
        if not ranked:
            raise CdvisionError(f"{self.labels.path}: no object is labelled in these images")

        def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            return {"ap50": mean_over_classes([_precision(entry, weights) for entry in ranked])}

        return figures


def voc_class(name: str) -> str | None:
    """Return VOC's name of a class, or None: a truck, say, is no VOC class.

    >>> voc_class("couch"), voc_class("tvmonitor"), voc_class("truck")
    ('sofa', 'tvmonitor', None)
    """
    return COCO_TO_VOC.get(name, name if name in COCO_TO_VOC.values() else None)


def _precision(ranked: RankedDetections, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    (curve,) = ranked.curves(weights)
    area = area_under_curve(*curve)
    area[ranked.missing(weights)] = np.nan
    return area


def _objects_by_class(
    labels: CocoLabels, image_ids: Sequence[int]
) -> Mapping[int, list[tuple[Boxes, NDArray[np.bool_]]]]:
    """Return boxes and ignore flags by class and photo."""
    place = {image_id: photo for photo, image_id in enumerate(image_ids)}
    listed: dict[int, list[list[Mapping[str, Any]]]] = {
        number: [[] for _ in image_ids] for number in labels.categories.values()
    }
    for entry in labels.annotations:
        if entry["image_id"] in place and entry["category_id"] in listed:
            listed[entry["category_id"]][place[entry["image_id"]]].append(entry)
    return {
        number: [
            (_corners(e["bbox"] for e in photo), np.array([e["ignore"] for e in photo], bool))
            for photo in photos
        ]
        for number, photos in listed.items()
    }


def _corners(boxes: Iterable[Sequence[float]]) -> Boxes:
    corners = [(left, top, left + width, top + height) for left, top, width, height in boxes]
    return np.array(corners, np.float64).reshape(-1, 4)


def _found_by_class(answers: Sequence[Detections]) -> dict[str, list[tuple[float, int, Boxes]]]:
    """Return (confidence, photo, box) of every detection, by VOC's class name."""
    found: dict[str, list[tuple[float, int, Boxes]]] = {}
    for photo, detections in enumerate(answers):
        boxes = detections.xyxy.astype(np.float64)
        for name, confidence, box in zip(
            detections.class_name.tolist(), detections.confidence.tolist(), boxes, strict=True
        ):
            if (voc := voc_class(name)) is not None:
                found.setdefault(voc, []).append((confidence, photo, box))
    return found


def _ranked(
    found: list[tuple[float, int, Boxes]], objects: list[tuple[Boxes, NDArray[np.bool_]]]
) -> RankedDetections:
    """Give every detection its verdict, best first."""
    best_first = sorted(found, key=lambda item: -item[0])  # stable: ties in the order of photos
    taken = [np.zeros(len(boxes), bool) for boxes, _ in objects]
    true, ignored = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for rank, (_, photo, box) in enumerate(best_first):
        boxes, difficult = objects[photo]
        overlap = _overlaps(box, boxes)
        if not overlap.size or overlap.max() < OVERLAP:
            continue
        best = int(overlap.argmax())  # VOC asks for this object alone, COCO for the next free one
        ignored[rank] = difficult[best]
        true[rank] = not difficult[best] and not taken[photo][best]
        # A second hit of one object counts as wrong: an object is found once.
        taken[photo][best] = True
    return RankedDetections(
        photo=np.array([photo for _, photo, _ in best_first], np.int64),
        true=true[None],
        ignored=ignored[None],
        positives=np.array([np.count_nonzero(~flags) for _, flags in objects], np.float64),
    )


def _overlaps(box: Boxes, boxes: Boxes) -> NDArray[np.float64]:
    """Return intersection over union of one box (4,) and others (N, 4), both corners."""
    start, end = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    # Boxes that lie apart have a negative extent, which is no area.
    shared = np.clip(end - start, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(shared / np.maximum((box[2:] - box[:2]).prod() + areas - shared, 1e-12))
