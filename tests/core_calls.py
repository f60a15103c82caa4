"""What tests of the native core share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cdvision.core.library import LIBRARY, CoreError

ARGUMENT = 13  # CDV_ARGUMENT


def refusal(call: Callable[[], object]) -> int:
    """Return the status with which the core refuses a call."""
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value.status


@contextmanager
def baseline_loops() -> Iterator[None]:
    """Run the loops that every processor has."""
    LIBRARY.cdv_use_baseline(1)
    try:
        yield
    finally:
        LIBRARY.cdv_use_baseline(0)
