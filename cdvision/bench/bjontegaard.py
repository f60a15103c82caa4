"""Bjøntegaard's deltas: how far apart two rate-accuracy curves are, as one figure.

The `bjontegaard` package integrates; what it would answer silently is refused here: too few points,
curves that hardly share a range, figures that are none.

Sources: G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33,
2001; in place of its single cubic, which swings between the points, piecewise cubics (PCHIP):
monotonic points give a monotonic curve.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.errors import CdvisionError

MIN_OVERLAP = 0.25
MIN_POINTS = 3
SETTINGS: dict[str, Any] = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}

Values = NDArray[np.float64]


def bd_rate(
    anchor_rate: ArrayLike,
    anchor_accuracy: ArrayLike,
    test_rate: ArrayLike,
    test_accuracy: ArrayLike,
    *,
    min_overlap: float = MIN_OVERLAP,
) -> float:
    """Return the mean difference of rate at equal accuracy, in percent; below 0 the test is better.

    >>> bytes_, ap = [1000, 2000, 4000, 8000], [0.20, 0.28, 0.33, 0.35]
    >>> round(bd_rate(bytes_, ap, [500, 1000, 2000, 4000], ap), 6)
    -50.0

    Dominated points are left out first (see ``non_dominated``): where measured accuracy falls with
    growing rate, nobody would use that point, and log rate is no function of accuracy.

    The anchor, (N,) rates and accuracies, is the curve to compare with; the test's are (M,). Rates
    are above 0, in one unit and any order. Both curves must cover ``min_overlap`` of the shorter
    one's range of accuracy.

    Raises:
        CdvisionError: a curve has fewer than 3 points that are not dominated, the overlap is too
            small, figures are not finite or not above 0, or the ``eval`` extra is missing.
    """
    anchor = _curve("anchor", anchor_rate, anchor_accuracy)
    test = _curve("test", test_rate, test_accuracy)
    _check_overlap(anchor[1], test[1], "accuracy", min_overlap)
    return float(_package().bd_rate(*anchor, *test, **SETTINGS))


def bd_accuracy(
    anchor_rate: ArrayLike,
    anchor_accuracy: ArrayLike,
    test_rate: ArrayLike,
    test_accuracy: ArrayLike,
    *,
    min_overlap: float = MIN_OVERLAP,
) -> float:
    """Return the mean difference of accuracy at equal log rate; above 0 the test is better.

    >>> bytes_, ap = [1000, 2000, 4000, 8000], np.array([0.20, 0.28, 0.33, 0.35])
    >>> round(bd_accuracy(bytes_, ap, bytes_, ap + 0.01), 6)
    0.01

    Arguments and errors are those of ``bd_rate``; the overlap is one of log rate.
    """
    anchor = _curve("anchor", anchor_rate, anchor_accuracy)
    test = _curve("test", test_rate, test_accuracy)
    _check_overlap(np.log10(anchor[0]), np.log10(test[0]), "log rate", min_overlap)
    return float(_package().bd_psnr(*anchor, *test, **SETTINGS))  # "PSNR" may be any accuracy


def non_dominated(rate: ArrayLike, accuracy: ArrayLike) -> NDArray[np.intp]:
    """Return the indices of the points that no other beats, smallest rate first.

    A point is dominated where another one has no higher rate and no lower accuracy, and differs;
    of equal points the first stays. Both figures then rise strictly.

    >>> non_dominated([300, 100, 200, 400], [0.3, 0.1, 0.05, 0.3]).tolist()
    [1, 0]
    """
    rates, accuracies = np.asarray(rate, np.float64), np.asarray(accuracy, np.float64)
    order = np.lexsort((-accuracies, rates))
    # Smallest rate first and, at one rate, best accuracy first: a point must beat all before it.
    best_before = np.maximum.accumulate(np.append(-np.inf, accuracies[order]))[:-1]
    return order[accuracies[order] > best_before]


def _curve(name: str, rate: ArrayLike, accuracy: ArrayLike) -> tuple[Values, Values]:
    """Check a curve; return rates and accuracies of its non-dominated points."""
    rates, accuracies = np.asarray(rate, np.float64), np.asarray(accuracy, np.float64)
    if rates.ndim != 1 or rates.shape != accuracies.shape:
        raise CdvisionError(
            f"{name}: expected as many accuracies as rates, found {rates.shape} rates and "
            f"{accuracies.shape} accuracies"
        )
    if not (np.isfinite(rates).all() and np.isfinite(accuracies).all() and (rates > 0).all()):
        raise CdvisionError(f"{name}: expected finite figures and rates above 0")
    kept = non_dominated(rates, accuracies)
    if len(kept) < MIN_POINTS:
        raise CdvisionError(
            f"{name}: {len(kept)} of {len(rates)} points are not dominated, "
            f"at least {MIN_POINTS} are needed"
        )
    return rates[kept], accuracies[kept]


def _check_overlap(anchor: Values, test: Values, axis: str, least: float) -> None:
    """Raise CdvisionError unless two rising ranges share enough of the shorter one."""
    # Both rise, so their first and last values are the ends of their ranges.
    shared = min(anchor[-1], test[-1]) - max(anchor[0], test[0])
    share = max(shared, 0) / min(np.ptp(anchor), np.ptp(test))
    if share <= 0 or share < least:
        raise CdvisionError(
            f"the curves share {share:.0%} of the shorter one's range of {axis}, "
            f"at least {least:.0%} are needed"
        )


def _package() -> Any:
    try:
        import bjontegaard
    except ImportError as error:
        raise CdvisionError(
            "Bjøntegaard figures need bjontegaard: pip install 'cdvision[eval]'"
        ) from error
    return bjontegaard
