"""PASCAL VOC's twenty classes under COCO's names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COCO_TO_VOC: Mapping[str, str] = MappingProxyType(
    {
        "airplane": "aeroplane",
        "bicycle": "bicycle",
        "bird": "bird",
        "boat": "boat",
        "bottle": "bottle",
        "bus": "bus",
        "car": "car",
        "cat": "cat",
        "chair": "chair",
        "cow": "cow",
        "dining table": "diningtable",
        "dog": "dog",
        "horse": "horse",
        "motorcycle": "motorbike",
        "person": "person",
        "potted plant": "pottedplant",
        "sheep": "sheep",
        "couch": "sofa",
        "train": "train",
        "tv": "tvmonitor",
    }
)
"""COCO's name -> VOC's name; COCO's other sixty classes have no counterpart."""

_OWN = frozenset(COCO_TO_VOC.values())


def voc_class(name: str) -> str | None:
    """Return VOC's name of a class, or None: a truck, say, is no VOC class.

    >>> voc_class("couch"), voc_class("tvmonitor"), voc_class("truck")
    ('sofa', 'tvmonitor', None)
    """
    return COCO_TO_VOC.get(name, name if name in _OWN else None)
