"""The compiled inner loops of the range coder for short bodies.

A range coder (Martin, "Range encoding", 1979) with carries: the encoder narrows an interval of a
32-bit window, and writes a byte whenever less than 24 bits of it are left. Beside rANS with four
states, whose states cost 8 bytes over the information in them, it costs half a byte a body, which
counts where a body has 40; it decodes about an eighth as fast, which does not.

As in ``kernels``, every number is a uint64, and nothing can leave its array: look-ups are addressed
by checked table indices and by 12 bits; a byte beyond the end reads as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.frequencies import ESCAPE_LIMIT, PRECISION
from cdvision.entropy.kernels import BAD_ESCAPE, DONE, TRUNCATED, compiled

# The interval at the start.
FULL = 1 << 32
# Outcome: the bytes point to none of the intervals, which no encoder writes.
BAD_POINT = 3

_U0, _U1 = np.uint64(0), np.uint64(1)
_BYTE, _WORD, _TOP, _WINDOW = np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)
_LEAST, _FULL, _MASK = np.uint64(1 << 24), np.uint64(FULL), np.uint64(FULL - 1)
_PRECISION, _TOTAL = np.uint64(PRECISION), np.uint64(1 << PRECISION)
_START_MASK, _BYTE_MASK = np.uint64(65535), np.uint64(255)
_NIBBLE_BITS, _NIBBLE, _SIGN = np.uint64(4), np.uint64(15), np.uint64(8)
_COUNT, _MOST = np.uint64(7), np.uint64(6)
_LIMIT, _ZERO = np.int64(ESCAPE_LIMIT), np.int64(128)

_SYMBOLS = "Array(int32, 1, 'C', readonly=True)"
_INDEX = "Array(uint16, 1, 'C', readonly=True)"
_SLOTS = "Array(uint8, 1, 'C', readonly=True)"
_ENTRIES = "Array(uint32, 1, 'C', readonly=True)"
_BOUNDS = "Array(int16, 1, 'C', readonly=True)"

Bytes = NDArray[np.uint8]
# Encoder: [bytes written, low end of the interval, width]. Decoder: [bytes dropped, point, width].
# Both count within a window of 32 bits; the decoder's point is relative to the low end.
State = NDArray[np.uint64]


@compiled("void(uint64[::1], uint8[::1], uint64, uint64, uint64)")
def _narrow(state: State, out: Bytes, start: np.uint64, size: np.uint64, bits: np.uint64) -> None:
    """Narrow the encoder's interval to ``size`` of 2^bits parts from ``start``."""
    part = state[2] >> bits
    low, width, position = state[1] + part * start, part * size, state[0]
    # A carry runs through bytes of 255 and ends in the first byte at the latest: the whole is
    # below 1.
    if low > _MASK:
        back = position - _U1
        while out[back] == _BYTE_MASK:
            out[back] = 0
            back -= _U1
        out[back] += np.uint8(1)
        low &= _MASK
    # Narrowing never changes the top byte again, carries excepted, once 24 bits are left below it.
    while width < _LEAST:
        out[position] = np.uint8(low >> _TOP)
        position += _U1
        low, width = (low << _BYTE) & _MASK, width << _BYTE
    state[0], state[1], state[2] = position, low, width


@compiled("void(uint64[::1], uint8[::1], int64, int64, int64)")
def _write_escaped(
    state: State, out: Bytes, value: np.int64, low: np.int64, high: np.int64
) -> None:
    """Write sign and nibble count, then the nibbles, highest first."""
    distance = np.uint64(low - value if value < low else value - high) - _U1
    # The count comes first, so that the decoder knows how many nibbles follow.
    count = _U0
    while distance >> (_NIBBLE_BITS * count):
        count += _U1
    _narrow(state, out, count + (_SIGN if value < low else _U0), _U1, _NIBBLE_BITS)
    while count:
        count -= _U1
        nibble = (distance >> (_NIBBLE_BITS * count)) & _NIBBLE
        _narrow(state, out, nibble, _U1, _NIBBLE_BITS)


@compiled(f"int64({_SYMBOLS}, {_INDEX}, {_ENTRIES}, {_BOUNDS}, {_BOUNDS}, uint64[::1], uint8[::1])")
def encode(
    symbols: NDArray[np.int32],
    index: NDArray[np.uint16],
    entries: NDArray[np.uint32],
    low: NDArray[np.int16],
    high: NDArray[np.int16],
    state: State,
    out: Bytes,
) -> np.int64:
    """Encode symbols into ``out``; returns -1, or the position of one that cannot be coded.

    ``entries`` holds at table << 8 | code (symbol + 128, 0 for an escape) the symbol's frequency
    << 16 | start, and 0 for what a table does not hold. ``out`` has 5 bytes for every symbol, and
    4 more for ``finish``.
    """
    for i in range(len(symbols)):
        table, value, entry = np.uint64(index[i]), np.int64(symbols[i]), _U0
        if -128 < value < 128:
            entry = np.uint64(entries[(table << _BYTE) | np.uint64(value + _ZERO)])
        escaped = entry == _U0
        if escaped:
            entry = np.uint64(entries[table << _BYTE])
            if entry == _U0 or abs(value) >= _LIMIT:
                return np.int64(i)
        # Certain: all of the interval is this symbol's, and dividing it would only lose width.
        if entry >> _WORD == _TOTAL:
            continue
        _narrow(state, out, entry & _START_MASK, entry >> _WORD, _PRECISION)
        if escaped:
            _write_escaped(state, out, value, np.int64(low[table]), np.int64(high[table]))
    return np.int64(-1)


@compiled("uint64(uint64)")
def closing_bytes(width: np.uint64) -> np.uint64:
    """Bytes after which some point of any interval of this width has only zeros: 0 or 1."""
    # A width is at least 2^24, so a multiple of 2^24, whose other three bytes are zero, lies in it.
    return _U1 if width < _FULL else _U0


@compiled("uint64(uint64[::1], uint8[::1])")
def finish(state: State, out: Bytes) -> np.uint64:
    """Write the first point of the interval that ``closing_bytes`` bytes reach; returns the length.

    That number depends on the interval's width only, so a decoder knows how many bytes there must
    be: a body that was cut, whose missing bytes read as zeros, is refused.
    """
    count = closing_bytes(state[2])
    # How far the low end lies below the next multiple of the step.
    step = _FULL >> (_BYTE * count)
    up = (step - state[1] % step) % step
    # With the full width, moving the low end up carries where it has to, and writes nothing.
    state[2] = _FULL
    _narrow(state, out, up, _FULL, _WINDOW)
    if count:
        out[state[0]] = np.uint8(state[1] >> _TOP)
        state[0] += _U1
    return np.uint64(state[0])


@compiled(f"void(uint64[::1], {_SLOTS}, uint64, uint64, uint64)")
def _follow(state: State, body: Bytes, start: np.uint64, size: np.uint64, bits: np.uint64) -> None:
    """Follow the encoder into ``size`` of 2^bits parts from ``start``."""
    # As the encoder did, with the low end at 0: the point moves instead of it.
    part = state[2] >> bits
    point, width, position = state[1] - part * start, part * size, state[0]
    while width < _LEAST:
        behind, following = position + np.uint64(4), _U0
        if behind < np.uint64(len(body)):
            following = np.uint64(body[behind])
        point, width, position = (point << _BYTE) | following, width << _BYTE, position + _U1
    state[0], state[1], state[2] = position, point, width


@compiled(f"int64(uint64[::1], {_SLOTS})")
def _read_nibble(state: State, body: Bytes) -> np.int64:
    nibble = state[1] // (state[2] >> _NIBBLE_BITS)
    if nibble > _NIBBLE:
        return np.int64(-1)
    _follow(state, body, nibble, _U1, _NIBBLE_BITS)
    return np.int64(nibble)


@compiled(f"int64(uint64[::1], {_SLOTS}, int64, int64)")
def _read_escaped(state: State, body: Bytes, low: np.int64, high: np.int64) -> np.int64:
    """Read sign, nibble count and nibbles; 2^20 where they are no escaped value."""
    head = _read_nibble(state, body)
    if head < 0 or np.uint64(head) & _COUNT > _MOST:
        return _LIMIT
    distance = _U0
    for _ in range(np.uint64(head) & _COUNT):
        nibble = _read_nibble(state, body)
        # A leading zero would be a second spelling of a value with fewer nibbles.
        if nibble < 0 or (nibble == 0 and distance == _U0):
            return _LIMIT
        distance = (distance << _NIBBLE_BITS) | np.uint64(nibble)
    beyond = np.int64(distance) + np.int64(1)
    value = low - beyond if np.uint64(head) & _SIGN else high + beyond
    return value if abs(value) < _LIMIT else _LIMIT


@compiled(
    f"int64({_SLOTS}, uint64[::1], {_SLOTS}, {_ENTRIES}, {_BOUNDS}, {_BOUNDS}, {_INDEX},"
    " int32[::1])"
)
def decode(
    body: Bytes,
    state: State,
    slots: NDArray[np.uint8],
    entries: NDArray[np.uint32],
    low: NDArray[np.int16],
    high: NDArray[np.int16],
    index: NDArray[np.uint16],
    out: NDArray[np.int32],
) -> np.int64:
    """Decode ``len(index)`` symbols into ``out``; returns the outcome.

    ``slots`` holds at table << 12 | slot the code of a symbol; ``entries`` as in ``encode``.
    """
    for i in range(len(index)):
        table = np.uint64(index[i])
        # The first slot's code: of a certain symbol it is the only one.
        code = np.uint64(slots[table << _PRECISION])
        entry = np.uint64(entries[(table << _BYTE) | code])
        if entry >> _WORD != _TOTAL:
            # What is left of the width by the division belongs to no slot.
            slot = state[1] // (state[2] >> _PRECISION)
            if slot >= _TOTAL:
                return np.int64(BAD_POINT)
            code = np.uint64(slots[(table << _PRECISION) | slot])
            entry = np.uint64(entries[(table << _BYTE) | code])
            _follow(state, body, entry & _START_MASK, entry >> _WORD, _PRECISION)
        value = np.int64(code) - _ZERO
        if code == _U0:
            value = _read_escaped(state, body, np.int64(low[table]), np.int64(high[table]))
            if value == _LIMIT:
                return np.int64(BAD_ESCAPE)
        if state[0] > np.uint64(len(body)):
            return np.int64(TRUNCATED)
        out[i] = np.int32(value)
    return np.int64(DONE)
