"""What cdvision answers: frozen dataclasses of numpy arrays, with the exports people know."""

from __future__ import annotations

from cdvision.results.attributes import Attribute, Attributes
from cdvision.results.checks import ResultError
from cdvision.results.classification import Classification
from cdvision.results.connectors import COCO_CATEGORY_IDS
from cdvision.results.detections import Detection, Detections

__all__ = [
    "COCO_CATEGORY_IDS",
    "Attribute",
    "Attributes",
    "Classification",
    "Detection",
    "Detections",
    "ResultError",
]
