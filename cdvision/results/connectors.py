"""Detections in the shapes that other libraries take; each is imported only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.optional_imports import import_optional
from cdvision.results.checks import ResultError
from cdvision.results.masks import Rle, decode_mask

if TYPE_CHECKING:
    import supervision as sv

    from cdvision.results.detections import Detection, Detections

# COCO planned 91 categories; these eleven never got a box, and detectors count the others 0 to 79.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
COCO_CATEGORY_IDS = tuple(number for number in range(1, 92) if number not in _UNUSED)


def category_id(class_id: int, category_ids: Sequence[int] | Mapping[int, int] | None) -> int:
    """Map a class to its COCO category; without a mapping, classes count from 1.

    >>> category_id(79, None), category_id(79, COCO_CATEGORY_IDS)
    (80, 90)
    """
    if category_ids is None:
        return class_id + 1
    try:
        return int(category_ids[class_id])
    except (IndexError, KeyError):
        raise ResultError(
            f"category_ids must map every class, but class {class_id} is not among its "
            f"{len(category_ids)} entries"
        ) from None


def plain_mask(mask: Rle) -> dict[str, Any]:
    """Return a mask with its runs as text, which JSON can hold."""
    return {**mask, "counts": mask["counts"].decode("ascii")}


def coco_entries(
    boxes: Iterable[Detection],
    image_id: int,
    category_ids: Sequence[int] | Mapping[int, int] | None,
) -> list[dict[str, Any]]:
    """Return one COCO result entry per box, unrounded so that AP does not depend on digits."""
    if isinstance(image_id, np.generic):  # json takes no numbers of numpy
        image_id = image_id.item()
    entries = []
    for box in boxes:
        left, top, right, bottom = box.xyxy
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_id(box.class_id, category_ids),
            # COCO's boxes are a corner and a size, ours two corners
            "bbox": [left, top, right - left, bottom - top],
            "score": box.confidence,
        }
        if box.mask is not None:
            entry["segmentation"] = plain_mask(box.mask)
        entries.append(entry)
    return entries


def supervision_detections(detections: Detections) -> sv.Detections:
    """Return `supervision.Detections` with copies of the arrays and dense (N, H, W) masks."""
    supervision = import_optional("supervision", "to_supervision")
    converted: sv.Detections = supervision.Detections(
        xyxy=detections.xyxy.copy(),
        mask=None if not detections.mask else np.stack([decode_mask(m) for m in detections.mask]),
        confidence=detections.confidence.copy(),
        class_id=detections.class_id.copy(),
        data={"class_name": detections.class_name.copy()},
    )
    return converted
