"""How well logits answer attributes, with thresholds fitted on held-out training faces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def accuracies(logits: Floats, attributes: Floats) -> dict[str, float]:
    """Return mean and balanced accuracy by their names, to four digits."""
    return {
        "mean_accuracy": round(mean_accuracy(logits, attributes), 4),
        "balanced_accuracy": round(balanced_accuracy(logits, attributes), 4),
    }


def mean_accuracy(logits: Floats, attributes: Floats) -> float:
    """Share of right answers at threshold 0, over (M, A) logits and 0/1 attributes."""
    return float(((logits > 0) == (attributes > 0.5)).mean())


def balanced_accuracy(logits: Floats, attributes: Floats) -> float:
    """Mean over attributes of (recall of ones + recall of zeros) / 2, at threshold 0.

    An attribute that all faces share has one recall only, which then counts alone.
    """
    right, ones = (logits > 0) == (attributes > 0.5), attributes > 0.5
    # 0 / 0 where no face, or every face, has an attribute: left out of the mean.
    with np.errstate(invalid="ignore"):
        recalls = np.stack([(right & side).sum(0) / side.sum(0) for side in (ones, ~ones)])
    return float(np.nanmean(recalls, axis=0).mean())


def balanced_thresholds(logits: Floats, attributes: Floats, weight: float = 1.0) -> Floats:
    """Return (A,) thresholds on logits that give the best mix of accuracy and balanced accuracy.

    Args:
        logits: (M, A), of held-out training faces.
        attributes: (M, A), 0 or 1.
        weight: of balanced accuracy; accuracy weighs one.
    """
    pairs = zip(logits.T, attributes.T > 0.5, strict=True)
    return np.array([_threshold(scores, truth, weight) for scores, truth in pairs])


def _threshold(scores: Floats, truth: NDArray[np.bool_], weight: float) -> float:
    order = np.argsort(scores)
    ranked, ones = scores[order], truth[order]
    # Cutting at every rank in turn costs one sort, where trying each threshold costs M passes.
    positives, negatives = max(1, int(ones.sum())), max(1, int((~ones).sum()))
    # After cutting below rank k: ones that are kept, zeros that are refused.
    kept = ones.sum() - np.concatenate([[0], np.cumsum(ones)])
    refused = np.concatenate([[0], np.cumsum(~ones)])
    value = (kept + refused) / len(ones) + weight * (kept / positives + refused / negatives) / 2
    # Midway between neighbours: no face that the fit has seen lies on the cut.
    cuts = np.concatenate([[ranked[0] - 1], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] + 1]])
    return float(cuts[int(np.argmax(value))])
