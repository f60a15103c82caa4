"""From the logits of a classifier to its most probable classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import ResultError, check_array
from cdvision.results.classification import Classification

if TYPE_CHECKING:
    from cdvision.heads.registry import Question


def answer_classes(question: Question) -> Classification:
    """Answer `classify`: the most probable classes of ``logits``."""
    logits, names = question.dense["logits"], question.class_names
    return classification_from_logits(logits, names, **question.options)


def classification_from_logits(
    logits: NDArray[np.float32], class_names: Sequence[str], *, top: int = 5
) -> Classification:
    """Take the softmax of one image's logits (C,) float32 and keep the ``top`` best classes.

    >>> logits = np.array([0.0, 3.0, 1.0], dtype=np.float32)
    >>> classification_from_logits(logits, ["cat", "dog", "owl"], top=2)
    Classification(dog 0.844, owl 0.114)

    Raises:
        ResultError: logits of another shape or dtype, or not finite, or `top` below 1.
    """
    check_array("logits", logits, shape=(len(class_names),), dtype=np.float32)
    if top < 1:
        raise ResultError(f"top must be at least 1, but got {top}")
    if not np.isfinite(logits).all():
        raise ResultError("logits must be finite, but some are NaN or infinite")
    # In float64, so that probabilities sum to 1 as exactly as float32 can show it; less the largest
    # logit, so that no exponential overflows.
    weights = np.exp(logits.astype(np.float64) - logits.max())
    best = np.argsort(-logits, kind="stable")[:top]
    return Classification(
        class_id=best.astype(np.int64),
        class_name=np.array([class_names[index] for index in best], dtype=np.str_),
        probability=(weights[best] / weights.sum()).astype(np.float32),
    )
