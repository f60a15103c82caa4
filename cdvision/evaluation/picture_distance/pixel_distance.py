"""Peak signal-to-noise ratio and multi-scale structural similarity of pictures.

::

    both ─ Gaussian means, variances, covariance ─▶ contrast and structure of scale 1 ─┐
      └─ halve ─ ... ─▶ of scale 2 ... ─ last scale: luminance too ────────────────────┴─ Π ^weights

Sources: Z. Wang et al., "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 2004 (window, constants); Z. Wang et al., "Multi-scale structural similarity
for image quality assessment", Asilomar 2003 (scales, weights).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError

Pictures = NDArray[np.uint8]
PEAK = 255.0
WINDOW, SIGMA = 11, 1.5  # pixels
STABLE = ((0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2)  # keep divisions by nearly nothing harmless
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first

Planes = NDArray[np.float32]


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


class Similarity(NamedTuple):
    """Luminance and contrast-structure terms, (N, 3) means over the places of a scale."""

    whole: NDArray[np.float64]
    structure: NDArray[np.float64]


def ms_ssim(found: Pictures, wanted: Pictures) -> NDArray[np.float64]:
    """Return the multi-scale structural similarity of each pair; 1 where they are equal.

    It is taken of each colour channel and averaged. Five scales need sides of 176 pixels; smaller
    pictures get as many as fit the window (four at 128 pixels), and the weights of those are
    scaled to a sum of 1, so figures of different sizes cannot be compared.

    >>> noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    >>> ms_ssim(noise, noise).round(6).tolist()
    [1.0]

    Args:
        found: (N, H, W, 3) uint8, sides of at least 11 pixels.
        wanted: (N, H, W, 3) uint8, the originals.

    Raises:
        CdvisionError: the batches differ in shape, or the pictures are smaller than the window.
    """
    check_pairs(found, wanted)
    pair = [np.moveaxis(pictures, 3, 1).astype(np.float32) for pictures in (found, wanted)]
    terms: list[NDArray[np.float64]] = []
    weights = _weights(min(found.shape[1:3]))
    for scale in range(len(weights)):
        similarity = _similarity(*pair)
        last = scale == len(weights) - 1
        terms.append(similarity.whole if last else similarity.structure)
        pair = [_halved(planes) for planes in pair]
    # A turned pattern has a negative term, whose broken power would be no number.
    powers = [np.maximum(t, 0) ** weight for t, weight in zip(terms, weights, strict=True)]
    return np.asarray(np.prod(powers, axis=0).mean(axis=1))


def scales(side: int) -> int:
    """Return how many scales a picture with this shorter side gets: 0 to 5.

    >>> scales(64), scales(128), scales(256)
    (3, 4, 5)
    """
    # Each scale halves the side, and the window must still fit into the last one.
    return next((n for n in range(len(WEIGHTS), 0, -1) if side >> (n - 1) >= WINDOW), 0)


def _weights(side: int) -> NDArray[np.float64]:
    count = scales(side)
    if not count:
        raise CdvisionError(f"MS-SSIM: expected sides of at least {WINDOW} pixels, found {side}")
    weights = np.array(WEIGHTS[:count])
    return weights if count == len(WEIGHTS) else weights / weights.sum()


def _similarity(first: Planes, second: Planes) -> Similarity:
    levels = [planes.mean(axis=(2, 3), keepdims=True) for planes in (first, second)]
    # Variances do not depend on the level, and without it float32 keeps more of them.
    a, b = first - levels[0], second - levels[1]
    means = [_blur(a), _blur(b)]
    # E[x²] - E[x]², of both pictures in one blur: only their sum is needed.
    variance = _blur(a**2 + b**2) - means[0] ** 2 - means[1] ** 2
    covariance = _blur(a * b) - means[0] * means[1]
    structure = (2 * covariance + STABLE[1]) / (variance + STABLE[1])
    x, y = (mean + level for mean, level in zip(means, levels, strict=True))
    luminance = (2 * x * y + STABLE[0]) / (x**2 + y**2 + STABLE[0])
    found = [t.mean(axis=(2, 3), dtype=np.float64) for t in (luminance * structure, structure)]
    return Similarity(*found)


def _blur(planes: Planes) -> Planes:
    """Average (N, C, H, W) under the window, inside the picture only: (N, C, H-10, W-10)."""
    height, width = planes.shape[2:]
    # A Gaussian is separable: rows and columns each take one product with a band matrix.
    return np.asarray(_band(height) @ planes @ _band(width).T)


@cache
def _band(side: int) -> Planes:
    """Return the window at each of its places, as a (side - 10, side) matrix."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * SIGMA**2))
    band = np.zeros((side - WINDOW + 1, side))
    for place, row in enumerate(band):
        row[place : place + WINDOW] = window / window.sum()
    return band.astype(np.float32)


def _halved(planes: Planes) -> Planes:
    """Average 2x2 places; an odd last row or column is left out."""
    n, c, height, width = planes.shape
    even = planes[:, :, : height // 2 * 2, : width // 2 * 2]
    halves = even.reshape(n, c, height // 2, 2, width // 2, 2)
    return np.asarray(halves.mean(axis=(3, 5)))
