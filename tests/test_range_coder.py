"""The range coder of short bodies: round trip, size, damage; whatever the bytes, no harm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdvision.entropy.range_coder import RangeDecoder, Segment, encode_short
from cdvision.entropy.tables import (
    CodingError,
    SymbolTables,
    gaussian_tables,
    tables_from_probabilities,
)
from cdvision.errors import BitstreamError

SCALES = np.geomspace(0.11, 30.0, 12)
GAUSSIAN = gaussian_tables(SCALES)
EXHAUSTIVE = tables_from_probabilities(
    np.random.default_rng(2).dirichlet(np.ones(9), 4), -4, escape=False
)


def drawn(
    seed: int, count: int, spread: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Symbols from the very scales that code them (but for ``spread``), skipped ones zero."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(GAUSSIAN), count)
    values = np.clip(rng.standard_normal(count) * SCALES[index] * spread, -1e6, 1e6)
    return np.where(index > 0, np.rint(values), 0).astype(np.int32), index


def decoded(body: bytes, *parts: tuple[NDArray[np.int64], SymbolTables]) -> list[list[int]]:
    decoder = RangeDecoder(body)
    found = [decoder.read(index, tables).tolist() for index, tables in parts]
    decoder.finish()
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
    spread=st.sampled_from([0.0, 1.0, 30.0, 1e6]),
)
@settings(max_examples=150, deadline=None)
def test_round_trip_of_two_segments(seed: int, count: int, spread: float) -> None:
    symbols, index = drawn(seed, count, spread)
    rng = np.random.default_rng(seed)
    others, tables = rng.integers(-4, 5, count), rng.integers(0, len(EXHAUSTIVE), count)
    segments = [Segment(others, tables, EXHAUSTIVE), Segment(symbols, index, GAUSSIAN)]
    body = encode_short(segments)
    assert decoded(body, (tables, EXHAUSTIVE), (index, GAUSSIAN)) == [
        others.tolist(),
        symbols.tolist(),
    ]
    bits = EXHAUSTIVE.estimate_bits(others, tables) + GAUSSIAN.estimate_bits(symbols, index)
    assert bits / 8 <= len(body) <= bits / 8 * 1.001 + 1.02


def test_what_is_certain_costs_nothing() -> None:
    index = np.zeros(500, np.int64)
    assert encode_short([Segment(np.zeros(500, np.int32), index, GAUSSIAN)]) == b""
    assert decoded(b"", (index, GAUSSIAN)) == [[0] * 500]
    with pytest.raises(BitstreamError, match="expected 0 bytes for these symbols, found 1"):
        decoded(b"\0", (index, GAUSSIAN))


def test_carries_run_through_many_bytes() -> None:
    """The last symbol of the last table moves the low end up to the very top, again and again."""
    table = tables_from_probabilities([[0.5, 0.5]], 0, escape=False)
    rng = np.random.default_rng(0)
    for tail in range(64):
        symbols = np.array([0] + [1] * tail + rng.integers(0, 2, 40).tolist(), np.int32)
        index = np.zeros(len(symbols), np.int64)
        body = encode_short([Segment(symbols, index, table)])
        assert decoded(body, (index, table)) == [symbols.tolist()]
        assert len(body) <= len(symbols) // 8 + 1


def test_extreme_symbols() -> None:
    index = np.full(2, 3)
    for value in (2**20 - 1, 1 - 2**20):
        symbols = np.array([value, 0], np.int32)
        body = encode_short([Segment(symbols, index, GAUSSIAN)])
        assert decoded(body, (index, GAUSSIAN)) == [symbols.tolist()]
    for value in (2**20, -(2**20), 2**31 - 1, -(2**31)):
        with pytest.raises(CodingError, match="2\\^20"):
            encode_short([Segment(np.array([0, value], np.int32), index, GAUSSIAN)])
    with pytest.raises(CodingError, match="no escape"):
        encode_short([Segment(np.array([5]), np.array([0]), EXHAUSTIVE)])


def test_a_cut_or_longer_body_is_refused() -> None:
    symbols, index = drawn(4, 200)
    body = encode_short([Segment(symbols, index, GAUSSIAN)])
    assert len(body) > 60
    for wrong in [body[:size] for size in range(len(body))] + [body + b"\0", body + b"\xff"]:
        with pytest.raises(BitstreamError):
            decoded(wrong, (index, GAUSSIAN))


def test_there_is_one_closing_byte() -> None:
    symbols, index = drawn(5, 40)
    body = encode_short([Segment(symbols, index, GAUSSIAN)])
    accepted = []
    for last in range(256):
        changed = body[:-1] + bytes([last])
        try:
            same = decoded(changed, (index, GAUSSIAN)) == [symbols.tolist()]
        except BitstreamError:
            continue
        accepted += [last] if same else []
    assert accepted == [body[-1]]


@given(body=st.binary(max_size=80), count=st.integers(0, 120), seed=st.integers(0, 99))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_symbols_or_a_bitstream_error(body: bytes, count: int, seed: int) -> None:
    _, index = drawn(seed, count)
    tables = np.random.default_rng(seed).integers(0, len(EXHAUSTIVE), count)
    try:
        first, second = decoded(body, (tables, EXHAUSTIVE), (index, GAUSSIAN))
    except BitstreamError as error:
        offset = error.offset
    else:
        again = [
            Segment(np.array(first, np.int32), tables, EXHAUSTIVE),
            Segment(np.array(second, np.int32), index, GAUSSIAN),
        ]
        assert encode_short(again) == body  # one spelling
        return
    assert offset is not None
    assert 0 <= offset <= len(body)
