"""Precision and recall of ranked answers, for many weightings of the photos at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Self

Weights = NDArray[np.float64]
Figure = NDArray[np.float64]

COCO_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class RankedDetections:
    """All detections of one class, best first, matched to the labels of their photos.

    A photo that a bootstrap drew twice counts twice: its matches are the same both times, so they
    are made once and weighted by how often each photo was drawn.

    Attributes:
        photo: (D,) int64, the photo that each detection is in.
        true: (T, D) bool, matched to a labelled object, for each of T overlaps (IoU).
        ignored: (T, D) bool, neither right nor wrong; nowhere true as well.
        positives: (P,) float64, objects to be found in each photo.
    """

    photo: NDArray[np.int64]
    true: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.float64]

    def curves(self, weights: Weights) -> Iterator[tuple[Figure, Figure]]:
        """Yield (R, H) recall and interpolated precision at the H true detections, per overlap.

        Between true detections recall stands still and precision falls, so these points hold all
        that average precision needs; ignored detections leave no trace.

        Args:
            weights: (R, P), how often each photo counts, a whole number, in R weightings.
        """
        drawn = weights[:, self.photo]
        seen_by_all = np.cumsum(drawn, axis=1)
        wanted = (weights @ self.positives)[:, None]
        for true, ignored in zip(self.true, self.ignored, strict=True):
            seen = np.cumsum(drawn * ~ignored, axis=1) if ignored.any() else seen_by_all
            hits = np.flatnonzero(true)
            found = np.cumsum(drawn[:, hits], axis=1)
            precision = found / np.maximum(seen[:, hits], 1)  # photos count whole: 0 stays 0
            # Interpolated: at a recall counts the best precision at this or any higher recall.
            best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = np.divide(found, wanted, out=np.zeros_like(found), where=wanted > 0)
            yield recall, best_from_here

    def missing(self, weights: Weights) -> NDArray[np.bool_]:
        """Return (R,): where no object of the class is drawn, it has no average precision."""
        return np.asarray(weights @ self.positives == 0)


def precision_at_recalls(recall: Figure, precision: Figure) -> Figure:
    """Average interpolated precision at COCO's 101 recalls; (R, H) arrays to (R,).

    The recalls up to a point but beyond the point before all take the precision of this point.
    """
    # How many of the 101 recalls lie at or below each point, less those of the point before.
    reached = np.searchsorted(COCO_RECALLS, recall.ravel(), side="right").reshape(recall.shape)
    taken = np.diff(reached, axis=1, prepend=0)
    return np.asarray((taken * precision).sum(axis=1) / len(COCO_RECALLS))


def area_under_curve(recall: Figure, precision: Figure) -> Figure:
    """Return the area under interpolated precision, VOC's from 2010 on; (R, H) arrays to (R,)."""
    # Precision is a step function of recall: a rectangle for each true detection.
    return np.asarray((np.diff(recall, axis=1, prepend=0.0) * precision).sum(axis=1))


def mean_over_classes(classes: list[Figure]) -> Figure:
    """Average (R,) figures over the classes that have one (are not NaN); NaN where none has."""
    stacked = np.stack(classes)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(axis=0)
    count = known.sum(axis=0)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


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
        """Rank photos by (P,) probabilities; ``present`` (P,) is what is true."""
        # Stable, so that equal probabilities give the same place on every machine.
        order = np.argsort(-probability, kind="stable")
        ranked = probability[order]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(order, ends, present[order].astype(np.float64))

    def figure(self, weights: Weights) -> Figure:
        """Return (R,) average precisions for (R, P) weights; NaN where no photo counts as present.

        >>> ranking = AttributeRanking.of(np.array([0.9, 0.8, 0.1]), np.array([True, False, True]))
        >>> ranking.figure(np.ones((1, 3))).round(3).tolist()
        [0.833]
        """
        drawn = weights[:, self.order]
        # Photos of equal probability count together: no order among them is better than another.
        seen = np.cumsum(drawn, axis=1)[:, self.ends]
        found = np.cumsum(drawn * self.present, axis=1)[:, self.ends]
        precision = np.divide(found, seen, out=np.zeros_like(found), where=seen > 0)
        gained = np.diff(found, axis=1, prepend=0.0)  # photos with the attribute at each place
        total = found[:, -1]
        figure = np.full(total.shape, np.nan)
        np.divide((gained * precision).sum(axis=1), total, out=figure, where=total > 0)
        return figure
