"""Answers as plain values that JSON holds exactly: what a cache keeps, and what is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cdvision.results import Classification, Detections

Plain = dict[str, Any]
Answer = TypeVar("Answer")


class AttributeAnswer(Protocol):
    """What a model's ``attributes`` must offer to be measured."""

    @property
    def name(self) -> Sequence[str] | NDArray[np.str_]:
        """Names of K attributes."""

    @property
    def probability(self) -> Sequence[float] | NDArray[np.float32]:
        """Their K probabilities, 0 to 1."""

    @property
    def present(self) -> Sequence[bool] | NDArray[np.bool_]:
        """What the model says of each, by thresholds of its own."""


class AttributeVerdict(NamedTuple):
    """What a model says of one attribute of one photo."""

    probability: float
    present: bool


@dataclass(frozen=True)
class AnswerFormat(Generic[Answer]):
    """Two functions that undo each other.

    Attributes:
        write: what a model answered -> plain values.
        read: plain values -> what is scored. Raises LookupError, TypeError, ValueError or
            CdvisionError on anything that ``write`` does not write.
    """

    write: Callable[[Any], Plain]
    read: Callable[[Plain], Answer]


def _write_detections(found: Detections) -> Plain:
    """Keep every digit (unlike ``to_dict``): AP depends on the order of confidences."""
    names = dict(zip(found.class_id.tolist(), found.class_name.tolist(), strict=True))
    plain: Plain = {
        "image_size": list(found.image_size),
        "boxes": found.xyxy.tolist(),
        "confidence": found.confidence.tolist(),
        "class_id": found.class_id.tolist(),
        "class_name": {str(number): name for number, name in names.items()},
    }
    if found.mask is not None:
        plain["masks"] = [mask["counts"].decode("ascii") for mask in found.mask]
    return plain


def _read_detections(plain: Plain) -> Detections:
    from cdvision.results import Detections
    from cdvision.results.masks import Rle

    width, height = plain["image_size"]
    masks = plain.get("masks")
    return Detections(
        xyxy=np.array(plain["boxes"], np.float32).reshape(-1, 4),
        confidence=np.array(plain["confidence"], np.float32),
        class_id=np.array(plain["class_id"], np.int64),
        class_name=np.array([plain["class_name"][str(n)] for n in plain["class_id"]], np.str_),
        image_size=(width, height),
        mask=None
        if masks is None
        else tuple(Rle(size=[height, width], counts=text.encode("ascii")) for text in masks),
    )


def _write_classes(found: Classification) -> Plain:
    return {"class_id": found.class_id.tolist()}


def _read_classes(plain: Plain) -> NDArray[np.int64]:
    classes = np.array(plain["class_id"])
    if classes.ndim != 1 or classes.dtype != np.int64 or not classes.size:
        raise ValueError("expected a list of class numbers")
    return classes


def _write_attributes(found: AttributeAnswer) -> Plain:
    verdicts = zip(found.name, found.probability, found.present, strict=True)
    return {str(name): [float(value), bool(present)] for name, value, present in verdicts}


def _read_attributes(plain: Plain) -> Mapping[str, AttributeVerdict]:
    return {name: _verdict(*value) for name, value in plain.items()}


def _verdict(probability: float, present: object) -> AttributeVerdict:
    if not isinstance(present, bool):
        raise ValueError("expected a probability and true or false for each attribute")
    return AttributeVerdict(float(probability), present)


DETECTIONS: AnswerFormat[Detections] = AnswerFormat(_write_detections, _read_detections)
CLASSES: AnswerFormat[NDArray[np.int64]] = AnswerFormat(_write_classes, _read_classes)
ATTRIBUTES: AnswerFormat[Mapping[str, AttributeVerdict]] = AnswerFormat(
    _write_attributes, _read_attributes
)
