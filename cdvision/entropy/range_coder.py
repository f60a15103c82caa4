"""The entropy coder of short bodies: half a byte over the information in them.

    symbols, index, tables ──▶ encode_short ──▶ bytes, none where nothing had to be told
    bytes ──▶ RangeDecoder ──▶ .read(index, tables) ──▶ symbols ... ──▶ .finish()

The interface is that of ``rans``, whose four states cost 8 bytes: nothing in a photo's kilobyte, a
sixth of a face's base layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.core import coding
from cdvision.core.coding import CoreError, RangeReader
from cdvision.core.library import BAD_ESCAPE, BAD_LENGTH, TRUNCATED
from cdvision.entropy.rans import Segment, checked_index, encoded_by, native_tables
from cdvision.entropy.tables import SymbolTables
from cdvision.errors import BitstreamError

__all__ = ["RangeDecoder", "Segment", "encode_short"]


def encode_short(segments: Sequence[Segment]) -> bytes:
    """Encode segments so that a ``RangeDecoder`` reads them in the same order.

    Raises:
        CodingError: as ``rans.encode_segments``.
    """
    return encoded_by(coding.range_encode, segments)


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
        self._body = bytes(data)
        self._reader = RangeReader(self._body)

    def read(self, index: ArrayLike, tables: SymbolTables) -> NDArray[np.int32]:
        """Decode one symbol per entry of ``index``, the table of each; int32 of index's shape."""
        known = checked_index(index, tables).reshape(np.shape(index))
        try:
            return self._reader.read(known, native_tables(tables))
        except CoreError as error:
            if error.status == TRUNCATED:
                self._refuse("range-coder bytes", f"more than {len(self._body)}", "the end")
            if error.status == BAD_ESCAPE:
                self._refuse("range-coder escape", "a value below 2^20 in magnitude", "another")
            self._refuse("range-coder point", "a point of some symbol's interval", "another")

    def finish(self) -> None:
        """Check that there are as many bytes as these symbols take, and that no others would do."""
        try:
            self._reader.finish()
        except CoreError as error:
            if error.status == BAD_LENGTH:
                expected = f"{self._reader.needed} bytes for these symbols"
                self._refuse("range-coder length", expected, f"{len(self._body)} bytes")
            self._refuse("range-coder closing bytes", "the first that fit", "others")

    def _refuse(self, field: str, expected: object, found: object) -> NoReturn:
        offset = self._reader.position
        raise BitstreamError(field, offset=offset, expected=expected, found=found) from None
