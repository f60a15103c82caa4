"""Paired timings: every part once a round, in an order that rotates.

A clock that changes its pace, a neighbour that wakes up, a cache that is cold: they hit all parts
of a round alike. So times are compared within a round, and only then is the median taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Action = Callable[[], object]
Times = Mapping[str, NDArray[np.float64]]
WARM_UPS = 2


@dataclass(frozen=True)
class Spread:
    """Median of a sample, and what 80 % of it lies between.

    >>> Spread.of([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.2, high=2.8)
    """

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise a sample; raises ValueError where it is empty."""
        sample = np.fromiter(values, np.float64)
        if sample.size == 0:
            raise ValueError("expected at least one value to summarise, found none")
        low, median, high = (round(float(v), 12) for v in np.percentile(sample, (10, 50, 90)))
        return cls(median, low, high)


def rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the order of a round: each starts one further on, every other runs backwards.

    So over two turns every part has had every place, and has come after either neighbour.

    >>> [rotated("abc", number) for number in range(3)]
    [['a', 'b', 'c'], ['b', 'a', 'c'], ['c', 'a', 'b']]
    """
    # Backwards on odd rounds, or each part would always follow the same neighbour.
    start = number % len(names)
    order = [*names[start:], *names[:start]]
    return order if number % 2 == 0 else [order[0], *reversed(order[1:])]


def paired_times(work: Sequence[Mapping[str, Action]], rounds: int, *, label: str = "") -> Times:
    """Run every action once a round, on one item of ``work`` after the other.

    The sets of actions have the same names; round r takes number r, modulo, after two uncounted
    rounds on each. Returns milliseconds of each action, (rounds,): entry r of all arrays is of one
    round. Raises ValueError without work, or for actions of different names.
    """
    names = list(work[0]) if work else []
    if not names or any(list(actions) != names for actions in work):
        raise ValueError(f"expected the same actions in every item, found {[*map(list, work)]}")
    for actions in work:
        for _ in range(WARM_UPS):
            for action in actions.values():
                action()
    times = {name: np.empty(rounds) for name in names}
    for number in tqdm(range(rounds), desc=label, unit="round", leave=False, disable=None):
        actions = work[number % len(work)]
        for name in rotated(names, number):
            started = perf_counter()
            actions[name]()
            times[name][number] = 1000 * (perf_counter() - started)
    return times


def pairwise_ratio(times: Times, part: str, rival: str) -> Spread:
    """Summarise the ratio of two parts' times, taken round by round."""
    # A slow second hits both parts of its round, so it leaves the ratio alone.
    return Spread.of(times[part] / times[rival])
