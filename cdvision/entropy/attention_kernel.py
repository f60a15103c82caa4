"""The compiled loop of integer attention: scores, look-up, exact division, weighted sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.kernels import compiled

# Weights of a query's keys sum to about 2^8.
WEIGHT_BITS = 8

_MATRIX = "Array(float32, 2, 'C', readonly=True)"
_EXPONENTS = "Array(uint16, 1, 'C', readonly=True)"


@compiled(f"void({_MATRIX}, int64, int64, int64, {_EXPONENTS}, float32[:, ::1])")
def attend(
    projected: NDArray[np.float32],
    known: int,
    heads: int,
    shift: int,
    exponents: NDArray[np.uint16],
    attended: NDArray[np.float32],
) -> None:
    """Write to ``attended`` (T, width) what each token finds among the first ``known`` ones.

    ``projected`` (T, 3 * width) are integers held in float32: queries, keys, values. See
    ``IntegerBlock`` for ``heads`` and ``shift``. ``exponents`` are weights of a key by how far its
    score lies below the query's best; the last entry stands for all greater distances, the first
    is above 0.
    """
    tokens, width = attended.shape
    size, farthest = width // heads, np.int64(len(exponents) - 1)
    scores, half = np.empty(known, np.int64), np.int64(1) << (shift - 1)
    for token in range(tokens):
        for first in range(0, width, size):
            best, mass = np.int64(-(2**62)), np.int64(0)
            # Scores: products of the query with each key. Half a step first makes the shift round.
            for key in range(known):
                total = half
                for place in range(first, first + size):
                    product = projected[token, place] * projected[key, width + place]
                    total += np.int64(product)
                scores[key] = total >> shift
                best = max(best, scores[key])
            # A softmax by table: the distance from the best says the weight, in integers.
            for key in range(known):
                scores[key] = np.int64(exponents[min(best - scores[key], farthest)])
                mass += scores[key]
            # Weights over their sum: (2 a + b) // 2 b is a / b, rounded to the nearest.
            for key in range(known):
                scores[key] = ((scores[key] << (WEIGHT_BITS + 1)) + mass) // (2 * mass)
            # Values by weight; the sum of weights, about 2^8, is shifted away, with rounding.
            for place in range(first, first + size):
                total = np.int64(1) << (WEIGHT_BITS - 1)
                for key in range(known):
                    total += scores[key] * np.int64(projected[key, 2 * width + place])
                attended[token, place] = np.float32(total >> WEIGHT_BITS)
