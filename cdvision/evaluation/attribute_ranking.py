"""Average precision of one attribute's probabilities, for many weightings of the photos at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttributeRanking:
    """Photos by falling probability of an attribute; photos of equal probability share a place.

    Average precision is the mean, over the photos that have the attribute, of the precision among
    all photos of at least their probability. A model that knows nothing reaches the attribute's
    share of the photos. Nothing is interpolated: interpolation flatters small sets.

    Source: M. Zhu, "Recall, Precision and Average Precision", 2004; as scikit-learn has it.

    Attributes:
        order: (P,) photos, the most probable first.
        ends: (G,) positions in ``order`` where a place of equal probabilities ends.
        present: (P,) float64, 1 where the photo at that position has the attribute.
    """

    order: NDArray[np.intp]
    ends: NDArray[np.intp]
    present: NDArray[np.float64]

    @classmethod
    def of(cls, probability: NDArray[np.float64], present: NDArray[np.bool_]) -> Self:
        """Rank P photos.

        Args:
            probability: (P,) float64.
            present: (P,) bool, what is true.
        """
        order = np.argsort(-probability, kind="stable")
        ranked = probability[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(order, ends, present[order].astype(np.float64))

    def figure(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (R,) average precisions for (R, P) weights; NaN where no photo counts as present.

        >>> ranking = AttributeRanking.of(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
        >>> ranking.figure(np.ones((1, 3))).round(3).tolist()
        [0.833]
        """
        drawn = weights[:, self.order]
        seen = np.cumsum(drawn, axis=1)[:, self.ends]
        found = np.cumsum(drawn * self.present, axis=1)[:, self.ends]
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        gained = np.diff(found, axis=1, prepend=0.0)  # photos with the attribute at each place
        total = found[:, -1]
        figure = np.full(total.shape, np.nan)
        np.divide((gained * precision).sum(axis=1), total, out=figure, where=total > 0)
        return figure
