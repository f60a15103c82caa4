"""The compiled inner loops of the rANS coder.

rANS (Duda, "Asymmetric numeral systems", 2013) with 32-bit states that renormalise by 16-bit words,
interleaved as Giesen described ("Interleaved entropy coders", 2014). Symbol i of a segment belongs
to state i mod 4. Measured on one Zen 5 core, 196,608 symbols: 1, 2, 4, 8 states decode 153, 281,
470, 588 Msymbol/s; each state costs 2 bytes over the information in it, so four it is.

A look-up takes two steps, slot to code (a byte) and code to frequency and start: 5 KiB a table, few
of which are touched. With one step and 16 KiB a table the decoder is slower even where everything
is cached, and takes 1.7 times as long after a network has emptied the caches, as one always has.

numba checks no bounds. Here nothing can leave its array: a table look-up is addressed by a table
index that the caller has checked and 12 bits of the state; words are read at most LANES beyond the
end, where the caller has put zeros, before that is noticed; the rest runs over ``len(index)``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cdvision.entropy.frequencies import ESCAPE_LIMIT, PRECISION

U64: TypeAlias = np.uint64
States: TypeAlias = NDArray[np.uint64]
Words: TypeAlias = NDArray[np.uint16]
Slots: TypeAlias = NDArray[np.uint8]
Entries: TypeAlias = NDArray[np.uint32]
Bounds: TypeAlias = NDArray[np.int16]
Index: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
Symbols: TypeAlias = NDArray[np.int32]
Function = TypeVar("Function", bound=Callable[..., object])

# Interleaved states.
LANES = 4

DONE, TRUNCATED, BAD_ESCAPE = 0, 1, 2

# numba turns uint64 + int64 into float64, and checks signed indices for wrap-around: so every
# number in these loops, constants included, is a uint64.
_U0, _U1, _U2, _U3, _U4 = (np.uint64(k) for k in range(5))
_PRECISION, _SLOT_MASK = np.uint64(PRECISION), np.uint64((1 << PRECISION) - 1)
_WORD, _WORD_MASK, _LOWEST = np.uint64(16), np.uint64(65535), np.uint64(1 << 16)
_BYTE, _ESCAPE, _SKIP = np.uint64(8), np.uint64(0), np.uint64(1 << PRECISION + 16)
_NIBBLE, _SIGN, _COUNT, _MOST = np.uint64(15), np.uint64(8), np.uint64(7), np.uint64(6)
# Bytes of a line of a cache, and lines that a table's slots take.
_LINE, _LINES = np.uint64(64), np.uint64((1 << PRECISION) // 64)
_HEADROOM, _NIBBLE_LIMIT = np.uint64(32 - PRECISION), np.uint64(1 << 28)
# _ZERO is the code of symbol 0.
_LIMIT, _ZERO = np.int64(ESCAPE_LIMIT), np.int32(128)

# Types of the arguments. Read-only arrays take writable ones too, not the other way round.
_OUTCOME = "Tuple((int64, uint64))"
_SLOTS = "Array(uint8, 1, 'C', readonly=True)"
_WORDS = "Array(uint16, 1, 'C', readonly=True)"
_ENTRIES = "Array(uint32, 1, 'C', readonly=True)"
_BOUNDS = "Array(int16, 1, 'C', readonly=True)"
_DECODE = (
    f"{_OUTCOME}({_WORDS}, uint64, uint64, uint64[::1], {_SLOTS}, {_ENTRIES}, {_BOUNDS}, {_BOUNDS},"
    " Array({}, 1, 'C', readonly=True), int32[::1])"
)


def compiled(*signatures: str, fuse: bool = False) -> Callable[[Function], Function]:
    """Compile for each signature at import, from numba's cache where it has one.

    ``fuse`` lets a product and a sum become one operation: for numbers where neither can round.

    The cache lies beside this file, in NUMBA_CACHE_DIR, or in the user's cache folder. Where none
    of them can be used (a read-only container, a full disk, a torn file), it compiles in memory.
    """
    options = _options(fuse)

    def compile_function(function: Function) -> Function:
        try:
            cached = njit(list(signatures), cache=True, **options)(function)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            cached = njit(list(signatures), **options)(function)
        return cast(Function, cached)

    return compile_function


def compiled_inside(*, fuse: bool = False) -> Callable[[Function], Function]:
    """Compile into each of the compiled functions of its file that call it, and for these only.

    Loading takes some 10 ms for each function with a signature of its own, cached or not, and
    nothing for these. Not for calls across files: numba's cache would miss a change there.
    """
    decorator: Callable[[Function], Function] = njit(**_options(fuse))
    return decorator


def _options(fuse: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    return options | {"fastmath": {"contract"}} if fuse else options


@compiled_inside()
def _refill(states: States, words: Words, end: U64, pointer: U64, lane: U64, state: U64) -> U64:
    """Store ``state``, with a word appended where it is too small; returns the next pointer."""
    if state < _LOWEST:
        # Beyond the end the last of the zeros is read again, until the caller notices.
        state = (state << _WORD) | np.uint64(words[min(pointer, end)])
        pointer += _U1
    states[lane] = state
    return pointer


@compiled_inside()
def _read_escaped(
    states: States, words: Words, end: U64, pointer: U64, lane: U64, low: np.int64, high: np.int64
) -> tuple[np.int64, U64]:
    """Read sign, nibble count and nibbles; 2^20 where they are no escaped value."""
    # Nibbles are uniform: four low bits of the state are one, the rest is the next state.
    head = states[lane] & _NIBBLE
    pointer = _refill(states, words, end, pointer, lane, states[lane] >> _U4)
    if head & _COUNT > _MOST:
        return _LIMIT, pointer
    distance = _U0
    for _ in range(head & _COUNT):
        distance = (distance << _U4) | (states[lane] & _NIBBLE)
        pointer = _refill(states, words, end, pointer, lane, states[lane] >> _U4)
    # A distance of 0 is the first value beyond the table: those within it have no escape.
    beyond = np.int64(distance) + np.int64(1)
    value = low - beyond if head & _SIGN else high + beyond
    return (value if abs(value) < _LIMIT else _LIMIT), pointer


@compiled_inside()
def _decode_slowly(
    words: Words, end: U64, pointer: U64, states: States, slots: Slots, entries: Entries,
    low: Bounds, high: Bounds, index: Index, out: Symbols, start: U64, stop: U64,
) -> tuple[np.int64, U64]:  # fmt: skip
    """Decode symbols ``start`` to ``stop`` one by one, escapes included."""
    for i in range(start, stop):
        lane, table = i & _U3, np.uint64(index[i])
        state = states[lane]
        code = np.uint64(slots[(table << _PRECISION) | (state & _SLOT_MASK)])
        entry = np.uint64(entries[(table << _BYTE) | code])
        # Duda's step backwards: frequency * (state / 2^12) + slot - start.
        state = (entry >> _WORD) * (state >> _PRECISION) + (state & _SLOT_MASK)
        pointer = _refill(states, words, end, pointer, lane, state - (entry & _WORD_MASK))
        value = np.int64(code) - np.int64(_ZERO)
        if code == _ESCAPE:
            value, pointer = _read_escaped(
                states, words, end, pointer, lane, np.int64(low[table]), np.int64(high[table])
            )
            if value == _LIMIT:
                return np.int64(BAD_ESCAPE), pointer
        if pointer > end:
            return np.int64(TRUNCATED), pointer
        out[i] = np.int32(value)
    return np.int64(DONE), pointer


@compiled_inside()
def _read_through(slots: NDArray[np.uint8], entries: NDArray[np.uint32], index: Index) -> np.uint64:
    """Read the tables between the first and the last that an index names, front to back.

    A cold cache fills several times faster so than by the look-ups of symbols, which go all over
    them: 95 microseconds instead of 150 for a photo's 86,000 symbols in the tables 0 to 27.
    Returns a sum, for a caller to store: of reads without a use, a compiler leaves nothing.
    """
    lowest, highest = index[0], index[0]
    for i in range(len(index)):
        lowest, highest = min(lowest, index[i]), max(highest, index[i])
    first, stop, total = np.uint64(lowest), np.uint64(highest) + _U1, _U0
    # Not for a few symbols in many tables: reading all of these would cost more than it saves.
    if _LINES * (stop - first) > _U2 * np.uint64(len(index)):
        return total
    # One byte of each cache line fetches the line: 64 slots, or 16 entries of four bytes.
    for place in range(first << _PRECISION, stop << _PRECISION, _LINE):
        total += np.uint64(slots[place])
    for place in range(first << _BYTE, stop << _BYTE, _LINE >> _U2):
        total += np.uint64(entries[place])
    return total


@compiled(*(_DECODE.format(index) for index in ("uint8", "uint16")))
def decode(
    words: Words, end: U64, pointer: U64, states: States, slots: Slots, entries: Entries,
    low: Bounds, high: Bounds, index: Index, out: Symbols,
) -> tuple[np.int64, U64]:  # fmt: skip
    """Decode ``len(index)`` symbols into ``out``; returns the outcome and the next pointer.

    A group of four runs without a branch on the data (measured within 5 % of branching, and it does
    not depend on how predictable the data is) except for three: an escape and the end of the words,
    which are hardly ever taken, and four skipped symbols, which come in long runs.

    ``words`` holds ``end`` words and LANES zeros; ``slots`` at table << 12 | slot the code of a
    symbol, symbol + 128, or 0 for an escape; ``entries`` at table << 8 | code its frequency << 16 |
    start.
    """
    count = np.uint64(len(index))
    if count == _U0:
        return np.int64(DONE), pointer
    # Stored where the first symbol goes later, so that the compiler keeps the reads.
    out[0] = np.int32(_read_through(slots, entries, index))
    whole = count & ~_U3
    # Whether table 0 is *skip*: symbol 0 with all of the 2^12 slots.
    skips = np.uint64(entries[_ZERO]) == _SKIP
    i = _U0
    # The outer loop turns once for each escape; between them the states stay in registers.
    while i < whole:
        x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
        while i < whole:
            t0, t1 = np.uint64(index[i]), np.uint64(index[i + _U1])
            t2, t3 = np.uint64(index[i + _U2]), np.uint64(index[i + _U3])
            # Four certain symbols leave all states as they are: nothing is read.
            if skips & (t0 | t1 | t2 | t3 == _U0):
                out[i] = out[i + _U1] = out[i + _U2] = out[i + _U3] = np.int32(0)
                i += _U4
                continue
            c0 = np.uint64(slots[(t0 << _PRECISION) | (x0 & _SLOT_MASK)])
            c1 = np.uint64(slots[(t1 << _PRECISION) | (x1 & _SLOT_MASK)])
            c2 = np.uint64(slots[(t2 << _PRECISION) | (x2 & _SLOT_MASK)])
            c3 = np.uint64(slots[(t3 << _PRECISION) | (x3 & _SLOT_MASK)])
            # Leaves the states untouched, so that the slow loop decodes the same four again.
            if (c0 == _ESCAPE) | (c1 == _ESCAPE) | (c2 == _ESCAPE) | (c3 == _ESCAPE):
                break
            out[i] = np.int32(c0) - _ZERO
            out[i + _U1] = np.int32(c1) - _ZERO
            out[i + _U2] = np.int32(c2) - _ZERO
            out[i + _U3] = np.int32(c3) - _ZERO
            e0, e1 = np.uint64(entries[t0 << _BYTE | c0]), np.uint64(entries[t1 << _BYTE | c1])
            e2, e3 = np.uint64(entries[t2 << _BYTE | c2]), np.uint64(entries[t3 << _BYTE | c3])
            # Duda's step for each lane: frequency * (state / 2^12) + slot - start.
            x0 = (e0 >> _WORD) * (x0 >> _PRECISION) + (x0 & _SLOT_MASK) - (e0 & _WORD_MASK)
            x1 = (e1 >> _WORD) * (x1 >> _PRECISION) + (x1 & _SLOT_MASK) - (e1 & _WORD_MASK)
            x2 = (e2 >> _WORD) * (x2 >> _PRECISION) + (x2 & _SLOT_MASK) - (e2 & _WORD_MASK)
            x3 = (e3 >> _WORD) * (x3 >> _PRECISION) + (x3 & _SLOT_MASK) - (e3 & _WORD_MASK)
            # Each lane, in turn, takes a word if it is too small: a conditional move, no branch.
            y0, s0 = (x0 << _WORD) | np.uint64(words[pointer]), x0 < _LOWEST
            x0, pointer = y0 if s0 else x0, pointer + np.uint64(s0)
            y1, s1 = (x1 << _WORD) | np.uint64(words[pointer]), x1 < _LOWEST
            x1, pointer = y1 if s1 else x1, pointer + np.uint64(s1)
            y2, s2 = (x2 << _WORD) | np.uint64(words[pointer]), x2 < _LOWEST
            x2, pointer = y2 if s2 else x2, pointer + np.uint64(s2)
            y3, s3 = (x3 << _WORD) | np.uint64(words[pointer]), x3 < _LOWEST
            x3, pointer = y3 if s3 else x3, pointer + np.uint64(s3)
            i += _U4
            if pointer > end:
                return np.int64(TRUNCATED), pointer
        states[0], states[1], states[2], states[3] = x0, x1, x2, x3
        if i < whole:
            outcome, pointer = _decode_slowly(
                words, end, pointer, states, slots, entries, low, high, index, out, i, i + _U4
            )
            if outcome != DONE:
                return outcome, pointer
            i += _U4
    return _decode_slowly(
        words, end, pointer, states, slots, entries, low, high, index, out, i, count
    )


@compiled_inside()
def _push_nibble(states: States, words: Words, pointer: U64, lane: U64, nibble: U64) -> U64:
    """Put four uniform bits on a state; returns ``pointer``, from which words grow downwards."""
    state = states[lane]
    # A state stays below 2^32, so it has to shed a word before it grows by four bits.
    if state >= _NIBBLE_LIMIT:
        pointer -= _U1
        words[pointer] = np.uint16(state & _WORD_MASK)
        state >>= _WORD
    states[lane] = (state << _U4) | nibble
    return pointer


@compiled_inside()
def _push_escaped(
    states: States, words: Words, pointer: U64, lane: U64, value: np.int64, low: np.int64,
    high: np.int64,
) -> U64:  # fmt: skip
    """Put the nibbles, then their head: the decoder meets them in the opposite order."""
    head = _SIGN if value < low else _U0
    distance = np.uint64(low - value if value < low else value - high) - _U1
    while distance:
        pointer = _push_nibble(states, words, pointer, lane, distance & _NIBBLE)
        distance >>= _U4
        head += _U1
    return _push_nibble(states, words, pointer, lane, head)


@compiled(
    f"{_OUTCOME}(Array(int32, 1, 'C', readonly=True), {_WORDS}, {_ENTRIES}, {_BOUNDS}, {_BOUNDS},"
    " uint64[::1], uint16[::1], uint64)"
)
def encode_backwards(
    symbols: Symbols, index: Words, entries: Entries, low: Bounds, high: Bounds, states: States,
    words: Words, pointer: U64,
) -> tuple[np.int64, U64]:  # fmt: skip
    """Encode the last symbol first; returns -1 (or the symbol at fault) and the pointer.

    ``entries`` is the decoder's, with 0 for what a table does not hold.
    """
    for i in range(len(symbols) - 1, -1, -1):
        table, value, lane = np.uint64(index[i]), np.int64(symbols[i]), np.uint64(i) & _U3
        entry = _U0
        # Outside of this range, or where the entry is 0, only the table's escape can code it.
        if -128 < value < 128:
            entry = np.uint64(entries[(table << _BYTE) | np.uint64(value + 128)])
        if entry == _U0:
            entry = np.uint64(entries[table << _BYTE])
            if entry == _U0 or abs(value) >= _LIMIT:
                return np.int64(i), pointer
            pointer = _push_escaped(
                states, words, pointer, lane, value, np.int64(low[table]), np.int64(high[table])
            )
        state, frequency = states[lane], entry >> _WORD
        # Sheds a word where the step below would take the state beyond 32 bits.
        if state >= frequency << _HEADROOM:
            pointer -= _U1
            words[pointer] = np.uint16(state & _WORD_MASK)
            state >>= _WORD
        # 32-bit division is several times faster than 64-bit; a state fits.
        whole = np.uint64(np.uint32(state) // np.uint32(frequency))
        rest = state - whole * frequency
        # Duda's step: (state / frequency) * 2^12 + state % frequency + start.
        states[lane] = (whole << _PRECISION) + rest + (entry & _WORD_MASK)
    return np.int64(-1), pointer
