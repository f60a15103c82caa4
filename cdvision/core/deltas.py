"""Delta packets of maps: a change to bytes, back, and counted. Arrays are C-contiguous."""

from __future__ import annotations

from ctypes import byref, c_size_t

import numpy as np
from numpy.typing import NDArray

from cdvision.core.library import LIBRARY, DeltaMap, Handle, address, check

TABLES = 253  # CDV_DELTA_TABLES

Scales = NDArray[np.uint8]
Symbols = NDArray[np.int32]


def encode_delta(
    scales: Scales, symbols: Symbols, counts: Scales, target: Symbols, tables: Handle
) -> bytes:
    """Encode the change from ``symbols`` to ``target``; updates symbols and counts in place."""
    described = _described(scales, symbols, counts)
    out, written = np.empty(LIBRARY.cdv_delta_capacity(byref(described)), np.uint8), c_size_t()
    given = address(target), tables.pointer, address(out), len(out), byref(written)
    check(LIBRARY.cdv_delta_encode(byref(described), *given))
    return out[: written.value].tobytes()


def decode_delta(
    scales: Scales, symbols: Symbols, counts: Scales, body: bytes, tables: Handle
) -> None:
    """Change symbols and counts in place as ``encode_delta`` did; raises CoreError."""
    described = _described(scales, symbols, counts)
    start = address(np.frombuffer(body, np.uint8)) if body else None
    check(LIBRARY.cdv_delta_decode(byref(described), tables.pointer, start, len(body)))


def count_delta(
    scales: Scales,
    symbols: Symbols,
    counts: Scales,
    target: Symbols,
    counted: NDArray[np.uint32],
) -> None:
    """Add what ``encode_delta`` would write to ``counted`` (253, 256), column symbol + 128."""
    described = _described(scales, symbols, counts)
    check(LIBRARY.cdv_delta_count(byref(described), address(target), address(counted)))


def _described(scales: Scales, symbols: Symbols, counts: Scales) -> DeltaMap:
    return DeltaMap(*symbols.shape, address(scales), address(symbols), address(counts))
