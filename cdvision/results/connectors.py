"""Results in the shapes that other libraries take; each is imported only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.errors import CdvisionError
from cdvision.results.coco_categories import category_id
from cdvision.results.masks import decode_mask

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from cdvision.results.classification import Classification
    from cdvision.results.detections import Detections


def detections_to_coco(
    detections: Detections,
    image_id: int,
    category_ids: Sequence[int] | Mapping[int, int] | None,
) -> list[dict[str, Any]]:
    """Return one COCO result entry per box, unrounded so that AP does not depend on digits."""
    entries = []
    for box in detections:
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


def detections_to_supervision(detections: Detections) -> sv.Detections:
    """Return `supervision.Detections` with copies of the arrays and dense (N, H, W) masks."""
    supervision = _import_optional("supervision", "to_supervision")
    converted: sv.Detections = supervision.Detections(
        xyxy=detections.xyxy.copy(),
        mask=None if not detections.mask else np.stack([decode_mask(m) for m in detections.mask]),
        confidence=detections.confidence.copy(),
        class_id=detections.class_id.copy(),
        data={"class_name": detections.class_name.copy()},
    )
    return converted


def detections_to_pandas(detections: Detections) -> pd.DataFrame:
    """Return one row per box: left, top, right, bottom, confidence, class_id, class_name."""
    pandas = _import_optional("pandas", "to_pandas")
    sides = dict(zip(("left", "top", "right", "bottom"), detections.xyxy.T, strict=True))
    columns = {
        **sides,
        "confidence": detections.confidence,
        "class_id": detections.class_id,
        "class_name": detections.class_name.tolist(),
    }
    table: pd.DataFrame = pandas.DataFrame(columns)
    return table


def classification_to_pandas(classification: Classification) -> pd.DataFrame:
    """Return one row per class: class_id, class_name, probability."""
    pandas = _import_optional("pandas", "to_pandas")
    columns = {
        "class_id": classification.class_id,
        "class_name": classification.class_name.tolist(),
        "probability": classification.probability,
    }
    table: pd.DataFrame = pandas.DataFrame(columns)
    return table


def _import_optional(package: str, caller: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise CdvisionError(
            f"{caller} needs {package}, which could not be imported ({error}): "
            f"install it with `pip install {package}`"
        ) from error
