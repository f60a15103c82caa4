"""The motion gate: tells before any network runs whether a picture shows what the last one did."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Side of the squares whose means are compared, pixels: one cell of a map.
SQUARE = 16
# Sensor noise of sigma 3 moves a square's mean by 0.15; an object of 4 x 4 pixels and 30 levels by
# 1.9.
THRESHOLD = 1.5


def square_means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of each square of (H, W, 3) uint8, (H / 16, W / 16, 3) float32."""
    height, width, _ = pixels.shape
    rows, columns = height // SQUARE, width // SQUARE
    cut = pixels[: rows * SQUARE, : columns * SQUARE]
    # Rows first: sums of 16 bytes fit in 16 bits, and the second sum has a sixteenth to do.
    sums = cut.reshape(rows, SQUARE, columns * SQUARE, 3).sum(axis=1, dtype=np.uint16)
    totals = sums.reshape(rows, columns, SQUARE, 3).sum(axis=2, dtype=np.uint32)
    return np.asarray(totals / np.float32(SQUARE * SQUARE), np.float32)


class MotionGate:
    """Compares pictures with the last that went through the network."""

    def __init__(self, threshold: float = THRESHOLD) -> None:
        self._threshold = threshold
        self._seen: NDArray[np.float32] | None = None

    def is_still(self, pixels: NDArray[np.uint8]) -> bool:
        """Tell whether no square's mean has moved by the threshold; else remember this picture."""
        means = square_means(pixels)
        if self._seen is not None and self._seen.shape == means.shape:
            if float(np.abs(means - self._seen).max(initial=0.0)) < self._threshold:
                return True
        self._seen = means
        return False

    def remember(self, pixels: NDArray[np.uint8]) -> None:
        """Take this picture for the last that went through the network."""
        self._seen = square_means(pixels)
