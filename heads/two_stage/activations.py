"""Logits to probabilities, in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def sigmoid(logits: Floats) -> Floats:
    """Return the probability of yes for every logit, whatever the shape.

    >>> sigmoid(np.array([-200, 0, 2], dtype=np.float32)).round(3).tolist()
    [0.0, 0.5, 0.8809999823570251]
    """
    with np.errstate(over="ignore"):  # exp(200) = inf, and 1 / inf = 0 is right
        return (1 / (1 + np.exp(-logits))).astype(np.float32, copy=False)


def softmax(logits: Floats) -> Floats:
    """Return probabilities (K, C) whose rows sum to 1.

    >>> softmax(np.array([[0, 0], [90, -90]], dtype=np.float32)).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    probabilities: Floats = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
