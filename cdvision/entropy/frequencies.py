"""Integer frequencies that code a distribution with the fewest bits.

A table of the coder holds one integer frequency per symbol, and they sum to exactly 2^PRECISION.
Rounding probabilities to that grid costs bits, most of all in narrow tables, where a tail symbol
with a probability far below one slot would still take a whole slot. So a table is *fitted*: the
frequencies minimise the expected code length, and the range is cut where an escape is cheaper.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# Bits of a table. Measured on 196,608 Gaussian symbols with log-normal scales (64 tables, Zen 5,
# four states): 11 bits cost 0.08 % of the rate over the real-valued Gaussian and decode 530
# Msymbol/s, 12 bits 0.04 % and 470, 13 bits 0.02 % and 260. At 12, a look-up entry still fits in 32
# bits and all 64 tables (1 MiB) in one core's L2 cache; at 13, neither is true.
PRECISION = 12
TOTAL = 1 << PRECISION
# Tables hold symbols in [-127, 127]; the last int8 value marks an escape in the look-up.
SYMBOL_LIMIT = 127
# Escaped values are smaller than this in magnitude.
ESCAPE_LIMIT = 1 << 20


def escape_bits(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bits behind an escape, for values ``distance`` >= 0 beyond the range's next.

    One nibble holds the sign and the number of nibbles to come, which hold the distance.

    >>> escape_bits(np.array([0, 1, 15, 16, 255, 256]))
    array([ 4,  8,  8, 12, 12, 16])
    """
    nibbles = sum((distance >= 1 << 4 * k).astype(np.int64) for k in range(6))
    return 4 + 4 * np.asarray(nibbles)


def optimal_frequencies(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the integer frequencies >= 1 with sum 2^PRECISION that minimise the code length.

    >>> optimal_frequencies(np.array([0.99999, 0.00001]))
    array([4095,    1])

    The code length is separable and convex, so exchanging single slots until no exchange gains
    reaches the global minimum (Ibaraki & Katoh, "Resource Allocation Problems", 1988).
    """
    frequency = np.maximum(1, np.rint(probabilities * TOTAL)).astype(np.int64)
    while True:
        # A symbol costs -log(frequency): what one slot more saves, and what one slot less costs.
        gain = probabilities * np.log((frequency + 1) / frequency)
        spare = frequency > 1
        loss = np.full_like(gain, np.inf)
        loss[spare] = probabilities[spare] * np.log(frequency[spare] / (frequency[spare] - 1))
        rise, fall, excess = int(gain.argmax()), int(loss.argmin()), int(frequency.sum()) - TOTAL
        if excess == 0 and gain[rise] <= loss[fall] + 1e-15:
            return frequency
        frequency[rise] += excess <= 0
        frequency[fall] -= excess >= 0


def fit_range(
    probabilities: NDArray[np.float64], outside: float
) -> tuple[int, int, NDArray[np.int64]]:
    """Fit one table with an escape to ``probabilities`` (W,) and the mass ``outside`` of them.

    Returns the first and last position that the table keeps, and its frequencies, the escape's
    last. Ranges that keep whatever is worth some fraction of a slot are tried; the cheapest wins.
    """
    ranges: dict[tuple[int, int], None] = {}
    for slots in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0):
        threshold = min(slots / TOTAL, float(probabilities.max()))
        kept = np.flatnonzero(probabilities >= threshold)
        ranges[int(kept[0]), int(kept[-1])] = None
    fitted = {tried: _fit_kept(probabilities, outside, *tried) for tried in ranges}
    # Of equal costs the first wins, which is the widest range.
    first, last = min(fitted, key=lambda tried: fitted[tried][0])
    return first, last, fitted[first, last][1]


def _fit_kept(
    probabilities: NDArray[np.float64], outside: float, first: int, last: int
) -> tuple[float, NDArray[np.int64]]:
    """Return expected bits and frequencies of the table of positions ``first`` to ``last``."""
    place = np.arange(len(probabilities))
    # How far behind the nearest kept position each one lies, counted from 0; below 0 if kept.
    beyond = np.where(place < first, first - place, place - last) - 1
    escaped = probabilities[beyond >= 0]
    mass = np.append(probabilities[first : last + 1], escaped.sum() + outside)
    frequency = optimal_frequencies(mass)
    bits = float(mass @ (PRECISION - np.log2(frequency)))
    # The mass outside of all positions is charged as if it lay just behind the widest range.
    edge = np.array([len(probabilities)])
    tail = float(escaped @ escape_bits(beyond[beyond >= 0])) + outside * int(escape_bits(edge)[0])
    return bits + tail, frequency


def gaussian_bins(scale: float) -> tuple[NDArray[np.float64], float]:
    """Return a zero-mean Gaussian's mass in the unit bins [-127, 127], and its mass outside."""
    edges = (np.arange(SYMBOL_LIMIT + 2) - 0.5) / (scale * math.sqrt(2.0))
    # erfc and not 1 - erf, whose tails would be differences of nearly equal numbers.
    above = np.array([0.5 * math.erfc(edge) for edge in edges])
    half = above[:-1] - above[1:]
    return np.concatenate([half[:0:-1], half]), 2.0 * float(above[-1])
