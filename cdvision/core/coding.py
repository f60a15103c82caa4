"""Tables, rANS and the range coder: bytes to symbols and back."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_size_t, c_void_p
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.core.library import (
    LIBRARY,
    NOT_CODABLE,
    CoreError,
    Handle,
    RangeState,
    RansState,
    Segment,
    address,
    check,
)

FULL_WIDTH = 1 << 32  # of a range coder's interval
Index = NDArray[np.uint8] | NDArray[np.uint16]


class Coded(NamedTuple):
    """Symbols (n,) int32, the table of each (n,) uint16, and the tables."""

    symbols: NDArray[np.int32]
    tables_of: NDArray[np.uint16]
    tables: Handle


class NotCodable(Exception):
    """A symbol that its table cannot code: its segment, and its position there."""

    def __init__(self, segment: int, position: int) -> None:
        self.segment, self.position = segment, position
        super().__init__(f"segment {segment}, symbol {position}")


def new_tables(
    low: NDArray[np.int16], high: NDArray[np.int16], frequencies: NDArray[np.uint16]
) -> Handle:
    """Make tables of ranges (T,) and of their frequencies, as ``SymbolTables`` has them."""
    made = c_void_p()
    ranges = address(low), address(high), len(low)
    check(LIBRARY.cdv_tables_new(*ranges, address(frequencies), len(frequencies), byref(made)))
    return Handle(made, LIBRARY.cdv_tables_free)


def rans_encode(segments: Sequence[Coded]) -> bytes:
    """Encode segments with rANS; raises NotCodable, CoreError."""
    return _encoded(LIBRARY.cdv_rans_encode, segments, bytes_a_symbol=6, more=16)


def range_encode(segments: Sequence[Coded]) -> bytes:
    """Encode segments with the range coder; raises NotCodable, CoreError."""
    return _encoded(LIBRARY.cdv_range_encode, segments, bytes_a_symbol=5, more=4)


def _encoded(encode: Any, segments: Sequence[Coded], bytes_a_symbol: int, more: int) -> bytes:
    parts = (Segment * len(segments))(
        *(Segment(address(s), address(i), len(s), tables.pointer) for s, i, tables in segments)
    )
    out = np.empty(bytes_a_symbol * sum(len(one.symbols) for one in segments) + more, np.uint8)
    written, at = c_size_t(), c_size_t()
    status = encode(parts, len(segments), address(out), len(out), byref(written), byref(at))
    if status == NOT_CODABLE:
        raise NotCodable(at.value, written.value)
    check(status)
    return out[: written.value].tobytes()


class Reader:
    """Reads one of the two kinds of bodies; ``position`` is that of the next byte."""

    def __init__(self, kind: str, state: RansState | RangeState, body: bytes) -> None:
        self._body, self._state = body, state
        self._read: Any = getattr(LIBRARY, f"cdv_{kind}_read")
        self._finish: Any = getattr(LIBRARY, f"cdv_{kind}_finish")
        start = address(np.frombuffer(body, np.uint8)) if body else None
        check(getattr(LIBRARY, f"cdv_{kind}_open")(byref(state), start, len(body)))

    @property
    def position(self) -> int:
        """Bytes read so far; of a range coder, written so far where the decoder is."""
        return min(int(self._state.position), len(self._body))

    def finish(self) -> None:
        """Check that the bytes are used up as an encoder leaves them; raises CoreError."""
        check(self._finish(byref(self._state)))


class RansReader(Reader):
    """Reads what ``rans_encode`` wrote; raises CoreError."""

    _state: RansState

    def __init__(self, body: bytes) -> None:
        super().__init__("rans", RansState(), body)

    @property
    def states(self) -> list[int]:
        """The four states."""
        return list(self._state.states)

    def read(self, index: Index, tables: Handle) -> NDArray[np.int32]:
        """Decode a symbol for each entry of a C-contiguous index, of its shape."""
        symbols = np.empty(index.shape, np.int32)
        source = byref(self._state), address(index), index.itemsize, index.size
        check(self._read(*source, tables.pointer, address(symbols)))
        return symbols


class RangeReader(Reader):
    """Reads what ``range_encode`` wrote; raises CoreError."""

    _state: RangeState

    def __init__(self, body: bytes) -> None:
        super().__init__("range", RangeState(), body)

    @property
    def needed(self) -> int:
        """Bytes that the symbols read so far take, closing ones included."""
        # With the full width nothing is left to be told: no closing byte.
        return int(self._state.position) + int(self._state.width < FULL_WIDTH)

    def read(self, index: NDArray[np.uint16], tables: Handle) -> NDArray[np.int32]:
        """Decode a symbol for each entry of a C-contiguous index, of its shape."""
        symbols = np.empty(index.shape, np.int32)
        source = byref(self._state), address(index), index.size
        check(self._read(*source, tables.pointer, address(symbols)))
        return symbols


__all__ = ["Coded", "CoreError", "NotCodable", "RangeReader", "RansReader", "new_tables"]
