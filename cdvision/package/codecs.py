"""The codecs by the number that stands in a stream's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cdvision.entropy.checkerboard import CheckerboardCoder
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.errors import ModelError

HYPERPRIOR, CHECKERBOARD = 1, 2
Coder = HyperpriorCoder | CheckerboardCoder
CODERS: Mapping[int, type[Coder]] = {HYPERPRIOR: HyperpriorCoder, CHECKERBOARD: CheckerboardCoder}


def coder_from_arrays(codec: int, arrays: Mapping[str, NDArray[Any]]) -> Coder:
    """Rebuild the coder of a codec from ``tables.npz``; raises ModelError."""
    if codec not in CODERS:
        known = ", ".join(map(str, CODERS))
        raise ModelError(f"unknown codec {codec}: this version knows {known}; update cdvision")
    return CODERS[codec].from_arrays(arrays)
