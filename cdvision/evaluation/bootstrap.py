"""Intervals of accuracy figures: the photos of a set are drawn again, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

# (R, P) weights of P photos in R weightings -> figures by name, (R,) each.
Scorer = Callable[[NDArray[np.float64]], dict[str, NDArray[np.float64]]]

# Figures of every draw by name, (R,) each.
Draws = dict[str, NDArray[np.float64]]

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
_CHUNK = 2**22  # weights held at a time


def bootstrap(
    scorer: Scorer,
    photos: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    keep: Draws | None = None,
) -> dict[str, float]:
    """Return every figure with its 95 % interval, ``name``, ``name_low`` and ``name_high``.

    The draws are shifted so that their mean is the figure itself: average precision over many
    rare classes is higher in a draw than in the set, since a class of few photos is either drawn
    several times or drops out, and plain percentiles may then miss the figure that they are of.
    One seed draws the same photos for every quality and codec of a set, so that their intervals
    differ by what was measured and not by the draw.

    >>> right = np.array([1.0, 0.0, 1.0, 1.0])
    >>> figures = bootstrap(lambda weights: {"top1": weights @ right / 4}, 4, resamples=200)
    >>> figures["top1"], figures["top1_low"] < 0.75 < figures["top1_high"]
    (0.75, True)

    Args:
        scorer: gives the figures for many weightings at once.
        photos: size of the set, at least 1.
        resamples: how many times the set is drawn; 0 leaves the intervals out.
        seed: of the draws.
        keep: is filled with the figures of every draw, to compare them with those of another
            measurement on the same photos, draw by draw.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979; percentiles.
    """
    record = {name: float(value[0]) for name, value in scorer(np.ones((1, photos))).items()}
    chunks = [scorer(weights) for weights in _draws(photos, resamples, seed)]
    if not chunks:
        return record
    with_intervals: dict[str, float] = {}
    for name, value in record.items():
        drawn = np.concatenate([chunk[name] for chunk in chunks])
        if keep is not None:
            keep[name] = drawn
        low, high = interval(value, drawn)
        with_intervals |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return with_intervals


def interval(value: float, drawn: NDArray[np.float64]) -> tuple[float, float]:
    """Return both ends of the interval of a figure; that of a share stays between 0 and 1."""
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        return np.nan, np.nan
    # Only the spread of the draws is taken over; their mean may be off, as `bootstrap` says.
    low, high = np.percentile(drawn - drawn.mean() + value, INTERVAL)
    if drawn.min() >= 0 and drawn.max() <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return float(low), float(high)


def _draws(photos: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield (R, P) multiplicities, a chunk of resamples at a time."""
    random = np.random.default_rng(seed)
    most = max(1, min(100, _CHUNK // photos))
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        # Each row gets numbers of its own, so that one bincount counts all rows at once.
        drawn = random.integers(0, photos, (rows, photos)) + photos * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * photos)
        yield counts.reshape(rows, photos).astype(np.float64)
