"""Arrays of several parts in one ``tables.npz``: each part's names begin with the part's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def named_parts(
    parts: Mapping[str, Mapping[str, NDArray[np.generic]]],
) -> dict[str, NDArray[np.generic]]:
    """Lay the arrays of several parts side by side, each under ``part/``."""
    return {f"{part}/{name}": v for part, arrays in parts.items() for name, v in arrays.items()}


def part_of(arrays: Mapping[str, NDArray[np.generic]], part: str) -> dict[str, NDArray[np.generic]]:
    """Take one part's arrays out of what ``named_parts`` gave."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
