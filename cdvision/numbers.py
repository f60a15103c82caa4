"""Numbers as callers give them: what they may be is checked in the call that gets them."""

from __future__ import annotations

from math import inf
from numbers import Integral, Real
from typing import Any

from cdvision.errors import CdvisionError


def check_number(
    name: str, value: Any, low: float | None, high: float | None, *, whole: bool = False
) -> None:
    """Refuse what is no finite number within limits, None for no limit; raises CdvisionError.

    Numbers of numpy are numbers, True and False are none.

    >>> check_number("confidence", 30, 0, 1)
    Traceback (most recent call last):
    cdvision.errors.CdvisionError: confidence: expected 0 to 1, found 30
    """
    least, most = -inf if low is None else low, inf if high is None else high
    right_kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    # A NaN fails every comparison.
    if right_kind and least <= value <= most and abs(value) != inf:
        return
    wanted = "a whole number" if whole else "a number"
    if low is not None:
        limits = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        wanted = limits if right_kind or high is not None else f"{wanted}, {limits}"
    raise CdvisionError(f"{name}: expected {wanted}, found {value!r}")


def checked_count(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """Return a whole number within limits; raises CdvisionError that names it.

    >>> checked_count("threads", 2)
    2
    """
    check_number(name, value, low, high, whole=True)
    return int(value)
