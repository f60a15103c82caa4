"""Results in the shapes that other libraries take; each is imported only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.optional_imports import import_optional
from cdvision.results.coco_categories import category_id
from cdvision.results.masks import decode_mask

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from cdvision.results.detections import Detection, Detections


def coco_entries(
    boxes: Iterable[Detection],
    image_id: int,
    category_ids: Sequence[int] | Mapping[int, int] | None,
) -> list[dict[str, Any]]:
    """Return one COCO result entry per box, unrounded so that AP does not depend on digits."""
    entries = []
    for box in boxes:
        left, top, right, bottom = box.xyxy
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": category_id(box.class_id, category_ids),
            "bbox": [left, top, right - left, bottom - top],
            "score": box.confidence,
        }
        if box.mask is not None:
            entry["segmentation"] = {**box.mask, "counts": box.mask["counts"].decode("ascii")}
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


def data_frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """Return a pandas table of named columns."""
    table: pd.DataFrame = import_optional("pandas", "to_pandas").DataFrame(columns)
    return table
