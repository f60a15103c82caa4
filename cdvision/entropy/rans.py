"""The entropy coder: integer latents and table indices to bytes, and back, the same everywhere.

    symbols, index, tables ──▶ encode_segments ──▶ 4 states (uint32) | words (uint16), little-endian
    bytes ──▶ RansDecoder ──▶ .read(index, tables) ──▶ symbols ... ──▶ .finish()

Several segments share one set of states, so that a later segment's table indices may depend on an
earlier one's symbols (hyper-latents first, then the latents) without a second set of states.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.entropy import kernels
from cdvision.entropy.frequencies import TOTAL
from cdvision.entropy.kernels import LANES
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import BitstreamError

_STATES = struct.Struct(f"<{LANES}I")
_STATE_BYTES = _STATES.size
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
    checked = [checked_segment(segment) for segment in segments]
    # A symbol takes at most 12 + 4 + 24 bits (an escape of six nibbles): 3 words are ample.
    capacity = 3 * sum(len(symbols) for symbols, _, _ in checked) + 2 * LANES
    words, pointer = np.empty(capacity, np.uint16), np.uint64(capacity)
    states = np.full(LANES, _INITIAL, np.uint64)
    # rANS is a stack: the decoder meets first what was pushed last.
    for symbols, index, tables in reversed(checked):
        arrays = symbols, index, table_lookups(tables).entries, tables.low, tables.high
        failed, pointer = kernels.encode_backwards(*arrays, states, words, pointer)
        if failed >= 0:
            raise_not_codable(int(symbols[failed]), int(index[failed]), tables)
    return states.astype("<u4").tobytes() + words[int(pointer) :].astype("<u2").tobytes()


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
        size = len(data)
        if size < _STATE_BYTES or size % 2:
            expected = f"an even number of bytes, {_STATE_BYTES} or more"
            raise BitstreamError("rANS payload length", offset=0, expected=expected, found=size)
        states = _STATES.unpack_from(data)
        if min(states) < _INITIAL:
            lane = [state < _INITIAL for state in states].index(True)
            expected, found = f"{_INITIAL} or more", states[lane]
            raise BitstreamError("rANS state", offset=4 * lane, expected=expected, found=found)
        self._states = np.array(states, np.uint64)
        self._end, self._position = (size - _STATE_BYTES) // 2, 0
        # The kernel may read LANES words beyond the end before it notices.
        words = b"".join((data, bytes(2 * LANES)))
        self._words = np.frombuffer(words, "<u2", offset=_STATE_BYTES).astype(np.uint16, copy=False)

    def read(self, index: ArrayLike, tables: SymbolTables) -> NDArray[np.int32]:
        """Decode one symbol per entry of ``index``, the table of each; int32 of index's shape."""
        return self.read_known(checked_index(index, tables).reshape(np.shape(index)), tables)

    def read_known(
        self, index: NDArray[np.uint8] | NDArray[np.uint16], tables: SymbolTables
    ) -> NDArray[np.int32]:
        """Decode as ``read`` does, of a C-contiguous index in which every entry names a table.

        The caller answers for that: what names no table would be looked up beyond the tables' end.
        """
        symbols, lookups = np.empty(index.shape, np.int32), table_lookups(tables)
        source = self._words, np.uint64(self._end), np.uint64(self._position), self._states
        looked_up = lookups.slots, lookups.entries, tables.low, tables.high
        outcome, position = kernels.decode(
            *source, *looked_up, index.reshape(-1), symbols.reshape(-1)
        )
        self._position = min(int(position), self._end)
        if outcome == kernels.TRUNCATED:
            self._refuse("rANS words", f"more than {self._end} words", "the end of the payload")
        if outcome == kernels.BAD_ESCAPE:
            self._refuse("rANS escape", "a value below 2^20 in magnitude", "another")
        return symbols

    def finish(self) -> None:
        """Check that every byte was used and every state is back where the encoder began."""
        # What an encoder pushed onto fresh states leaves fresh states when it is popped.
        if self._position != self._end:
            self._refuse("rANS words", f"{self._position} words in all", f"{self._end} words")
        if (states := self._states.tolist()) != [_INITIAL] * LANES:
            self._refuse("rANS final states", [_INITIAL] * LANES, states)

    def _refuse(self, field: str, expected: object, found: object) -> None:
        offset = _STATE_BYTES + 2 * self._position
        raise BitstreamError(field, offset=offset, expected=expected, found=found)


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


class TableLookups(NamedTuple):
    """How the kernels want tables.

    slots: uint8, table << 12 | slot -> code: symbol + 128, or 0 for an escape.
    entries: uint32, table << 8 | code -> frequency << 16 | start.
    """

    slots: NDArray[np.uint8]
    entries: NDArray[np.uint32]


# Tables hash by identity: a few models' worth stay ready.
@lru_cache(maxsize=32)
def table_lookups(tables: SymbolTables) -> TableLookups:
    """Return tables in the form that the kernels want."""
    frequency = tables.frequencies.astype(np.int64)
    owner = np.repeat(np.arange(len(tables)), tables.escapes - tables.starts + 1)
    # Symbols of all tables follow one another, 2^12 slots a table: less those, a start is a slot.
    start = np.cumsum(frequency) - frequency - owner * TOTAL
    code = tables.table_symbols + 128
    entries = np.zeros((len(tables), 256), np.uint32)
    entries[owner, code] = np.where(frequency > 0, frequency << 16 | start, 0)
    return TableLookups(np.repeat(code, frequency).astype(np.uint8), entries.ravel())


def checked_segment(segment: Segment) -> tuple[NDArray[np.int32], NDArray[np.uint16], SymbolTables]:
    """Return flat symbols, flat index and tables in the kernels' types; raises CodingError."""
    symbols = np.asarray(segment.symbols)
    if symbols.shape != np.shape(segment.index):
        raise CodingError(
            f"segment: expected an index of shape {symbols.shape}, found {np.shape(segment.index)}"
        )
    index = checked_index(segment.index, segment.tables)
    _check_bounds("symbols", symbols, -(2**31), 2**31 - 1)
    return np.ascontiguousarray(symbols, np.int32).ravel(), index, segment.tables


def checked_index(index: ArrayLike, tables: SymbolTables) -> NDArray[np.uint16]:
    """Return the index flat, in the kernels' type; raises CodingError."""
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


def raise_not_codable(symbol: int, table: int, tables: SymbolTables) -> None:
    """Raise the CodingError that says why a symbol cannot be coded with its table."""
    low, high = int(tables.low[table]), int(tables.high[table])
    escape = "an escape to 2^20" if tables.frequencies[tables.escapes[table]] else "no escape"
    raise CodingError(f"table {table}: expected [{low}, {high}] with {escape}, found {symbol}")
