"""From the logits of an attribute head to calibrated answers about a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import ModelError
from cdvision.results.attributes import Attributes
from cdvision.results.checks import ResultError, check_array

if TYPE_CHECKING:
    from cdvision.heads.registry import Question

Table = NDArray[np.float64]
TABLES = ("scale", "bias", "threshold")


@dataclass(frozen=True, eq=False)
class AttributeCalibration:
    """How logits become probabilities, for each number of layers that have arrived.

    Raises:
        ModelError: the tables do not have one shape, or are not finite.

    Source of the calibration: Platt, "Probabilistic outputs for support vector machines", 1999.
    """

    scale: Table  # (layers, K): a probability is the sigmoid of scale * logit + bias
    bias: Table  # (layers, K)
    threshold: Table  # (layers, K): probability from which an attribute counts as present
    report: tuple[str, ...]  # names that an answer holds unless all are asked for

    def __post_init__(self) -> None:
        tables = (self.scale, self.bias, self.threshold)
        if any(t.ndim != 2 or t.shape != self.scale.shape for t in tables):
            raise ModelError("attribute calibration: expected three tables of one shape")
        if not all(np.isfinite(t).all() for t in tables):
            raise ModelError("attribute calibration: expected finite numbers")

    def to_settings(self) -> dict[str, Any]:
        """Return JSON values for a card's ``settings``."""
        return {**{name: getattr(self, name).tolist() for name in TABLES}, "report": [*self.report]}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AttributeCalibration:
        """Read back what ``to_settings`` gave; raises ModelError."""
        try:
            tables = {name: np.array(settings[name], np.float64) for name in TABLES}
            return cls(**tables, report=tuple(settings["report"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"attribute calibration: cannot be read ({error})") from error


def answer_attributes(question: Question) -> Attributes:
    """Answer `attributes`, from as many layers as have arrived."""
    return attributes_from_logits(
        question.dense["logits"],
        question.class_names,
        calibration=AttributeCalibration.from_settings(question.settings),
        layers=question.layers,
        **question.options,
    )


def attributes_from_logits(
    logits: NDArray[np.float32],
    names: Sequence[str],
    *,
    calibration: AttributeCalibration,
    layers: int,
    all_attributes: bool = False,
) -> Attributes:
    """Return the attributes of one face, of K logits (float32) and their names.

    ``layers`` is how many layers of the stream they come from, 1 or more. Without
    ``all_attributes`` only those of ``calibration.report`` are told.

    Raises:
        ResultError: logits of another shape or dtype, or not finite.
    """
    check_array("logits", logits, shape=(len(names),), dtype=np.float32)
    if not np.isfinite(logits).all():
        raise ResultError("logits must be finite, but some are NaN or infinite")
    # A calibration of fewer layers than have arrived uses its last: more layers, surer logits.
    row = min(layers, len(calibration.scale)) - 1
    strength = calibration.scale[row] * logits.astype(np.float64) + calibration.bias[row]
    # Clipped, because the exponential of a large strength would overflow.
    probability = (1 / (1 + np.exp(-np.clip(strength, -60, 60)))).astype(np.float32)
    wanted = set(names if all_attributes else calibration.report)
    kept = np.array([place for place, name in enumerate(names) if name in wanted], np.int64)
    return Attributes(
        name=np.array(names, np.str_)[kept],
        probability=probability[kept],
        present=(probability >= calibration.threshold[row])[kept],
    )
