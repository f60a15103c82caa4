"""Attributes of a photo, each there or not: accuracy, balanced accuracy, average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.evaluation.answer_formats import ATTRIBUTES, AttributeVerdict
from cdvision.evaluation.bootstrap import Scorer
from cdvision.evaluation.notices import listed, notice
from cdvision.evaluation.ranking import AttributeRanking, mean_over_classes


@dataclass(frozen=True)
class AttributeTable:
    """What a csv says of its photos.

    Attributes:
        path: the csv, for messages.
        names: K attributes.
        present: (rows, K) bool.
    """

    path: Path
    names: tuple[str, ...]
    present: NDArray[np.bool_]

    @classmethod
    def from_rows(cls, path: Path, rows: Sequence[Mapping[str, str]]) -> AttributeTable:
        """Take the columns that hold nothing but 0 and 1; raises CdvisionError without any."""
        names = [name for name in rows[0] if all(row[name] in ("0", "1") for row in rows)]
        if not names:
            raise CdvisionError(f"{path}: expected columns of 0 and 1, found {listed([*rows[0]])}")
        values = [[row[name] == "1" for name in names] for row in rows]
        return cls(path, tuple(names), np.array(values, bool))


class AttributeScoring:
    """Figures of attributes: the mean over them, and of each (``accuracy.Smiling``).

    * ``accuracy``: share of the photos that are right;
    * ``balanced_accuracy``: mean of the shares that are right among the photos with and without
      the attribute;
    * ``average_precision``: of the probabilities, see ``AttributeRanking``; no threshold decides;
    * ``majority_accuracy``: what always giving the more frequent answer would reach.

    Where no photo has an attribute, or all have it, balanced accuracy and average precision are
    undefined, and left out of the means.
    """

    format = ATTRIBUTES
    task = "attributes"

    def __init__(self, table: AttributeTable) -> None:
        self.table = table

    def scorer(
        self, labels: Sequence[int], answers: Sequence[Mapping[str, AttributeVerdict]]
    ) -> Scorer:
        """Compare once; return what gives the figures for weightings of the photos.

        Args:
            labels: rows of the table.
            answers: probability and verdict by attribute, one mapping a photo.
        """
        names = self._answered(answers)
        columns = [self.table.names.index(name) for name in names]
        present = self.table.present[np.asarray(labels)][:, columns]  # (P, K)
        said = np.array([[answer[name].present for name in names] for answer in answers])
        scores = np.array([[answer[name].probability for name in names] for answer in answers])
        right = (said == present).astype(np.float64)
        rankings = [AttributeRanking.of(*pair) for pair in zip(scores.T, present.T, strict=True)]

        def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
            every = np.ones_like(right)
            with_it = _share(weights, present.astype(np.float64), every)
            found = {
                "accuracy": _share(weights, right, every),
                "balanced_accuracy": (
                    _share(weights, right, present) + _share(weights, right, ~present)
                ) / 2,
                "average_precision": np.stack([r.figure(weights) for r in rankings], axis=1),
                "majority_accuracy": np.maximum(with_it, 1 - with_it),
            }  # fmt: skip
            means = {name: mean_over_classes(list(value.T)) for name, value in found.items()}
            each = {
                f"{name}.{attribute}": value[:, k]
                for name, value in found.items()
                for k, attribute in enumerate(names)
            }
            return {**means, **each}

        return figures

    def _answered(self, answers: Sequence[Mapping[str, AttributeVerdict]]) -> list[str]:
        known = [name for name in self.table.names if all(name in answer for answer in answers)]
        unknown = [name for name in self.table.names if name not in known]
        if not known:
            raise CdvisionError(
                f"{self.table.path}: the model answers none of {listed(self.table.names)}"
            )
        if unknown:
            notice(f"{self.table.path}: not measured, the model does not answer {listed(unknown)}")
        return known


def _share(
    weights: NDArray[np.float64], right: NDArray[np.float64], among: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Return (R, K) weighted shares of right answers among some photos; NaN where there is none."""
    chosen = among.astype(np.float64)
    count = weights @ chosen
    total = weights @ (right * chosen)
    share = np.full(count.shape, np.nan)  # 0/0 is no share
    np.divide(total, count, out=share, where=count > 0)
    return share
