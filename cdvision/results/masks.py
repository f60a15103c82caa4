"""COCO run-length masks in numpy: the same bytes as pycocotools, without a compiler.

Runs of a mask take a few hundred bytes, its dense array one a pixel.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cdvision.results.checks import ResultError, check_array

# Seven groups of five bits hold every run of a mask of up to 2^34 pixels.
_MAX_GROUPS = 7
_GROUP_BITS, _SIGN_BIT, _MORE_BIT, _FIRST_CHARACTER = 0x1F, 0x10, 0x20, 48


class Rle(TypedDict):
    """A COCO run-length mask: ``size`` is [height, width], ``counts`` the compressed runs."""

    size: list[int]
    counts: bytes


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Encode one dense (height, width) bool mask, both at least 1.

    >>> mask = np.zeros((4, 5), dtype=bool)
    >>> mask[1:3, 2:4] = True
    >>> encode_mask(mask)
    {'size': [4, 5], 'counts': b'92203'}
    """
    check_array("mask", mask, shape=("h", "w"), dtype=np.bool_)
    if mask.size == 0:
        raise ResultError(f"mask must have at least one pixel, but got shape {mask.shape}")
    # COCO counts down the columns, not along the rows
    column_major = mask.ravel(order="F")
    changes = np.flatnonzero(column_major[1:] != column_major[:-1]) + 1
    edges = np.concatenate(([0], changes, [column_major.size]))
    counts = np.diff(edges)
    # The first run always counts background: none of it where the corner is foreground.
    if column_major[0]:
        counts = np.concatenate(([0], counts))
    return Rle(size=[mask.shape[0], mask.shape[1]], counts=compress_counts(counts))


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """Decode one mask to a dense (height, width) bool array.

    >>> decode_mask({"size": [2, 3], "counts": b"222"}).astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    """
    height, width = rle["size"]
    counts = mask_runs(rle)
    # runs alternate, background first
    foreground = np.arange(counts.size) % 2 == 1
    return np.repeat(foreground, counts).reshape((height, width), order="F")


def mask_runs(rle: Rle) -> NDArray[np.int64]:
    """Return the run lengths, background first, checked to fill the mask's size exactly."""
    height, width = rle["size"]
    if height < 1 or width < 1:
        raise ResultError(f"mask size must be positive, but got {rle['size']}")
    counts = expand_counts(rle["counts"])
    # With each run at most the whole mask, the sum cannot wrap around.
    if (counts < 0).any() or counts.max() > height * width or counts.sum() != height * width:
        raise ResultError(
            f"mask runs must fill {height} x {width} = {height * width} pixels, "
            f"but got {counts.size} runs with sum {sum(counts.tolist())}"
        )
    return counts


def compress_counts(counts: NDArray[np.int64]) -> bytes:
    """Write run lengths as COCO's string: differences to the run before last, five bits a byte.

    Source: `rleToString` of pycocotools, of which this gives the same bytes.
    """
    deltas = counts.astype(np.int64)
    # Runs of one colour are alike from column to column: their differences are small numbers.
    deltas[3:] -= counts[1:-2]
    largest = max(abs(int(deltas.max())), abs(int(deltas.min())))
    shifts = 5 * np.arange(largest.bit_length() // 5 + 1)  # one more bit is the sign's
    column = deltas[:, None]
    # Five bits a character, lowest first; 48 ("0") makes all 64 values printable.
    groups = ((column >> shifts) & _GROUP_BITS) + _FIRST_CHARACTER
    # Another group follows until only copies of the sign bit would: until the number fits.
    follows = (column ^ (column >> 63)) >> (shifts + 4) != 0
    groups[follows] += _MORE_BIT
    # A group is written where the one before says that another follows; the first always is.
    used = np.empty_like(follows)
    used[:, 0], used[:, 1:] = True, follows[:, :-1]
    text: bytes = groups[used].astype(np.uint8).tobytes()
    return text


def expand_counts(text: bytes | str) -> NDArray[np.int64]:
    """Read run lengths from COCO's string (source: `rleFrString` of pycocotools)."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    symbols = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if symbols.size == 0 or symbols.min() < 0 or symbols.max() > 63 or symbols[-1] & _MORE_BIT:
        raise ResultError(f"mask counts must be a complete COCO RLE string, but got {raw[:40]!r}")
    # A number ends with the first character that lacks the bit "more follows".
    ends = np.flatnonzero((symbols & _MORE_BIT) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise ResultError(
            f"a mask run must take at most {_MAX_GROUPS} characters, but got {lengths.max()}"
        )
    # A character's place in its own number says how far its five bits are moved up.
    shifts = 5 * (np.arange(symbols.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((symbols & _GROUP_BITS) << shifts, starts)
    # Two's complement: where the top of 5 * length bits is set, 2^(5 * length) was read too much.
    values -= np.where(symbols[ends] & _SIGN_BIT, 1, 0) << (5 * lengths)
    # Each run is told as its difference to the run before last, but runs 0, 1 and 2 as they are.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
