"""The entropy coder of short bodies: half a byte over the information in them.

    symbols, index, tables ──▶ encode_short ──▶ bytes, none where nothing had to be told
    bytes ──▶ RangeDecoder ──▶ .read(index, tables) ──▶ symbols ... ──▶ .finish()

The interface is that of ``rans``, whose four states cost 8 bytes: nothing in a photo's kilobyte, a
sixth of a face's base layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.entropy import range_kernels as kernels
from cdvision.entropy.kernels import BAD_ESCAPE, TRUNCATED
from cdvision.entropy.rans import (
    Segment,
    checked_index,
    checked_segment,
    raise_not_codable,
    table_lookups,
)
from cdvision.entropy.tables import SymbolTables
from cdvision.errors import BitstreamError

__all__ = ["RangeDecoder", "Segment", "encode_short"]

_WINDOW_BYTES = 4


def encode_short(segments: Sequence[Segment]) -> bytes:
    """Encode segments so that a ``RangeDecoder`` reads them in the same order.

    Raises:
        CodingError: as ``rans.encode_segments``.
    """
    checked = [checked_segment(segment) for segment in segments]
    # A symbol takes at most 12 + 4 + 24 bits: five bytes.
    out = np.empty(5 * sum(len(symbols) for symbols, _, _ in checked) + _WINDOW_BYTES, np.uint8)
    state = np.array([0, 0, kernels.FULL], np.uint64)
    for symbols, index, tables in checked:
        entries = table_lookups(tables).entries
        failed = kernels.encode(symbols, index, entries, tables.low, tables.high, state, out)
        if failed >= 0:
            raise_not_codable(int(symbols[failed]), int(index[failed]), tables)
    return out[: int(kernels.finish(state, out))].tobytes()


class RangeDecoder:
    """Reads the segments of ``encode_short`` in order; whatever the bytes, no harm is done.

    >>> from cdvision.entropy.tables import gaussian_tables
    >>> tables = gaussian_tables([0.11, 1.0, 4.0])
    >>> index = np.array([1, 2, 0])
    >>> data = encode_short([Segment(np.array([-1, 300, 0]), index, tables)])
    >>> decoder = RangeDecoder(data)
    >>> decoder.read(index, tables)
    array([ -1, 300,   0], dtype=int32)
    >>> decoder.finish()
    >>> len(data)
    4

    Raises:
        BitstreamError: from ``read`` and ``finish``, when the bytes are not such a body. Its offset
            counts from the start of ``data``.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._body = np.frombuffer(bytes(data), np.uint8)
        # Bytes beyond the end read as zeros: an encoder leaves trailing ones out.
        head = bytes(data[:_WINDOW_BYTES]).ljust(_WINDOW_BYTES, b"\0")
        point = int.from_bytes(head, "big")
        self._state = np.array([0, point, kernels.FULL], np.uint64)

    def read(self, index: ArrayLike, tables: SymbolTables) -> NDArray[np.int32]:
        """Decode one symbol per entry of ``index``, the table of each; int32 of index's shape."""
        flat, lookups = checked_index(index, tables), table_lookups(tables)
        symbols = np.empty(len(flat), np.int32)
        looked_up = lookups.slots, lookups.entries, tables.low, tables.high
        outcome = int(kernels.decode(self._body, self._state, *looked_up, flat, symbols))
        if outcome == TRUNCATED:
            self._refuse("range-coder bytes", f"more than {len(self._body)}", "the end")
        if outcome == BAD_ESCAPE:
            self._refuse("range-coder escape", "a value below 2^20 in magnitude", "another")
        if outcome == kernels.BAD_POINT:
            self._refuse("range-coder point", "a point of some symbol's interval", "another")
        return symbols.reshape(np.shape(index))

    def finish(self) -> None:
        """Check that there are as many bytes as these symbols take, and that no others would do."""
        position, point, width = self._state
        closing = int(kernels.closing_bytes(width))
        needed = int(position) + closing
        if needed != len(self._body):
            expected = f"{needed} bytes for these symbols"
            self._refuse("range-coder length", expected, f"{len(self._body)} bytes")
        # Of all points of the last interval an encoder takes the first: one body, one spelling.
        if int(point) >= kernels.FULL >> 8 * closing:
            self._refuse("range-coder closing bytes", "the first that fit", "others")

    def _refuse(self, field: str, expected: object, found: object) -> None:
        offset = min(int(self._state[0]), len(self._body))
        raise BitstreamError(field, offset=offset, expected=expected, found=found)
