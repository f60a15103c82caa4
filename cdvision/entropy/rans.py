"""The entropy coder: integer latents and table indices to bytes, and back, the same everywhere.

    symbols, index, tables ──▶ encode_segments ──▶ 4 states (uint32) | words (uint16), little-endian
    bytes ──▶ RansDecoder ──▶ .read(index, tables) ──▶ symbols ... ──▶ .finish()

Several segments share one set of states, so that a later segment's table indices may depend on an
earlier one's symbols (hyper-latents first, then the latents) without a second set of states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.core import coding
from cdvision.core.coding import Coded, CoreError, Index, NotCodable, RansReader
from cdvision.core.library import BAD_ESCAPE, BAD_LENGTH, BAD_STATE, Handle
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import BitstreamError

LANES = 4  # interleaved states
_STATE_BYTES = 4 * LANES
_INITIAL = 1 << 16


@dataclass(frozen=True)
class Segment:
    """Symbols that are coded together, and the table of each one, an array of the same shape."""

    symbols: NDArray[np.integer]
    index: NDArray[np.integer]
    tables: SymbolTables


def encode_segments(segments: Sequence[Segment]) -> bytes:
    """Encode segments so that a ``RansDecoder`` reads them in the same order.

    Raises:
        CodingError: a symbol is outside its table's range and the table has no escape (or the
            symbol is 2^20 or more in magnitude), an index names no table, or shapes differ.
    """
    return encoded_by(coding.rans_encode, segments)


class RansDecoder:
    """Reads the segments of ``encode_segments`` in order; whatever the bytes, no harm is done.

    >>> from cdvision.entropy.tables import gaussian_tables
    >>> tables = gaussian_tables([0.11, 1.0, 4.0])
    >>> index = np.array([1, 2, 0])
    >>> data = encode_latents(np.array([-1, 300, 0]), index, tables)
    >>> decoder = RansDecoder(data)
    >>> decoder.read(index, tables)
    array([ -1, 300,   0], dtype=int32)
    >>> decoder.finish()

    Raises:
        BitstreamError: from every method, when the bytes are not such a payload. Its offset counts
            from the start of ``data``.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._body = bytes(data)
        try:
            self._reader = RansReader(self._body)
        except CoreError as error:
            self._refuse_start(error)

    def read(self, index: ArrayLike, tables: SymbolTables) -> NDArray[np.int32]:
        """Decode one symbol per entry of ``index``, the table of each; int32 of index's shape."""
        return self.read_known(checked_index(index, tables).reshape(np.shape(index)), tables)

    def read_known(self, index: Index, tables: SymbolTables) -> NDArray[np.int32]:
        """Decode as ``read`` does, of a C-contiguous index in which every entry names a table."""
        try:
            return self._reader.read(index, native_tables(tables))
        except CoreError as error:
            words = (len(self._body) - _STATE_BYTES) // 2
            if error.status == BAD_ESCAPE:
                self._refuse("rANS escape", "a value below 2^20 in magnitude", "another")
            self._refuse("rANS words", f"more than {words} words", "the end of the payload")

    def finish(self) -> None:
        """Check that every byte was used and every state is back where the encoder began."""
        try:
            self._reader.finish()
        except CoreError as error:
            if error.status == BAD_STATE:
                self._refuse("rANS final states", [_INITIAL] * LANES, self._reader.states)
            used, words = (
                (size - _STATE_BYTES) // 2 for size in (self._reader.position, len(self._body))
            )
            self._refuse("rANS words", f"{used} words in all", f"{words} words")

    def _refuse(self, field: str, expected: object, found: object) -> NoReturn:
        offset = self._reader.position
        raise BitstreamError(field, offset=offset, expected=expected, found=found) from None

    def _refuse_start(self, error: CoreError) -> NoReturn:
        if error.status == BAD_LENGTH:
            expected, found = f"an even number of bytes, {_STATE_BYTES} or more", len(self._body)
            raise BitstreamError("rANS payload length", offset=0, expected=expected, found=found)
        states = np.frombuffer(self._body, "<u4", LANES).tolist()
        lane = [state < _INITIAL for state in states].index(True)
        expected, found = f"{_INITIAL} or more", states[lane]
        raise BitstreamError("rANS state", offset=4 * lane, expected=expected, found=found)


def encode_latents(
    symbols: NDArray[np.integer], index: NDArray[np.integer], tables: SymbolTables
) -> bytes:
    """Encode one array of latents; see ``encode_segments``."""
    return encode_segments([Segment(symbols, index, tables)])


def decode_latents(
    data: bytes | bytearray | memoryview, index: ArrayLike, tables: SymbolTables
) -> NDArray[np.int32]:
    """Decode what ``encode_latents`` wrote, and check that nothing is left; see RansDecoder."""
    decoder = RansDecoder(data)
    symbols = decoder.read(index, tables)
    decoder.finish()
    return symbols


# Tables hash by identity: a few models' worth stay ready.
@lru_cache(maxsize=32)
def native_tables(tables: SymbolTables) -> Handle:
    """Return tables in the form that the core wants."""
    return coding.new_tables(tables.low, tables.high, tables.frequencies)


def encoded_by(encode: Callable[[list[Coded]], bytes], segments: Sequence[Segment]) -> bytes:
    """Encode segments with a function of the core; raises CodingError."""
    checked = [checked_segment(segment) for segment in segments]
    try:
        return encode([Coded(s, index, native_tables(tables)) for s, index, tables in checked])
    except NotCodable as error:
        symbols, index, tables = checked[error.segment]
        raise_not_codable(int(symbols[error.position]), int(index[error.position]), tables)


def checked_segment(segment: Segment) -> tuple[NDArray[np.int32], NDArray[np.uint16], SymbolTables]:
    """Return flat symbols, flat index and tables in the core's types; raises CodingError."""
    symbols = np.asarray(segment.symbols)
    if symbols.shape != np.shape(segment.index):
        raise CodingError(
            f"segment: expected an index of shape {symbols.shape}, found {np.shape(segment.index)}"
        )
    index = checked_index(segment.index, segment.tables)
    _check_bounds("symbols", symbols, -(2**31), 2**31 - 1)
    return np.ascontiguousarray(symbols, np.int32).ravel(), index, segment.tables


def checked_index(index: ArrayLike, tables: SymbolTables) -> NDArray[np.uint16]:
    """Return the index flat, in the core's types; raises CodingError."""
    array = np.asarray(index)
    _check_bounds("table index", array, 0, len(tables) - 1)
    return np.ascontiguousarray(array, np.uint16).ravel()


def _check_bounds(name: str, array: NDArray[np.generic], low: int, high: int) -> None:
    # This takes 2 % of the time of decoding for uint8 indices, 12 % for int64.
    if array.size == 0:
        return
    if array.dtype.kind not in "iu":
        raise CodingError(f"{name}: expected integers, found {array.dtype}")
    smallest, largest = int(array.min()), int(array.max())
    if smallest < low or largest > high:
        raise CodingError(
            f"{name}: expected values in [{low}, {high}], found [{smallest}, {largest}]"
        )


def raise_not_codable(symbol: int, table: int, tables: SymbolTables) -> NoReturn:
    """Raise the CodingError that says why a symbol cannot be coded with its table."""
    low, high = int(tables.low[table]), int(tables.high[table])
    escape = "an escape to 2^20" if tables.frequencies[tables.escapes[table]] else "no escape"
    raise CodingError(f"table {table}: expected [{low}, {high}] with {escape}, found {symbol}")
