"""Peak signal-to-noise ratio, and the check that two batches of pictures can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError

Pictures = NDArray[np.uint8]
PEAK = 255.0


def psnr(found: Pictures, wanted: Pictures) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each pair, in dB over all three channels.

    >>> grey = np.full((1, 8, 8, 3), 100, np.uint8)
    >>> psnr(grey + np.uint8(5), grey).round(2).tolist()  # 20 log10(255 / 5)
    [34.15]

    Args:
        found: (N, H, W, 3) uint8.
        wanted: (N, H, W, 3) uint8, the originals. Equal pictures give infinity.

    Raises:
        CdvisionError: the batches differ in shape, or are no pictures.
    """
    check_pairs(found, wanted)
    error = found.astype(np.float64) - wanted
    mean = np.square(error).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):  # equal pictures: infinity is the right answer
        return np.asarray(10 * np.log10(PEAK**2 / mean))


def check_pairs(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Raise CdvisionError unless both are (N, H, W, 3) uint8 of one shape, N at least 1."""
    for pictures in (found, wanted):
        shape = pictures.shape
        if pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not pictures.size:
            raise CdvisionError(
                f"pictures: expected (N, H, W, 3) uint8, found {pictures.dtype} of shape {shape}"
            )
    if found.shape != wanted.shape:
        raise CdvisionError(
            f"pictures: expected the originals' shape {wanted.shape}, found {found.shape}"
        )
