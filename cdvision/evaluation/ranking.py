"""Precision and recall of ranked detections, for many weightings of the photos at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
