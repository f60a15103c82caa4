"""Delta packets of maps: exact both ways, small where nothing changes, harmless whatever comes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import cdvision
from cdvision.building.delta_tables import counted_tables, new_counts
from cdvision.entropy.delta_coder import DeltaCoder, MapState, count_change
from cdvision.entropy.tables import CodingError, SymbolTables, tables_from_probabilities
from cdvision.errors import BitstreamError, ModelError

SHAPE = (128, 7, 9)  # neither side a multiple of a block's


@pytest.fixture(scope="module")
def coder() -> DeltaCoder:
    return cdvision.load("small").package.delta_coder


def a_state(seed: int = 0) -> MapState:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.normal(0, 0.5, SHAPE)).astype(np.int32)
    scales = rng.integers(0, 40, SHAPE, dtype=np.uint8)
    counts = rng.integers(0, 6, SHAPE[1:], dtype=np.uint8)
    return MapState(symbols, np.zeros((24, 2, 3), np.int32), scales, counts, 3)


def changed(state: MapState, share: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cells = rng.random(SHAPE[1:]) < share
    change = np.rint(rng.normal(0, 0.6, SHAPE)).astype(np.int32) * cells
    return state.symbols + change


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_change_comes_back(coder: DeltaCoder, share: float) -> None:
    state = a_state()
    symbols = changed(state, share)
    body, after = coder.encode(state, symbols)
    found = coder.decode(state, body)
    assert np.array_equal(found.symbols, symbols)
    assert np.array_equal(after.symbols, symbols)
    assert np.array_equal(found.counts, after.counts)
    assert np.array_equal(found.counts, (symbols != state.symbols).sum(axis=0))


def test_a_new_scene_is_coded_anew_and_comes_back(coder: DeltaCoder) -> None:
    state = a_state()
    symbols = np.zeros(SHAPE, np.int32)  # fewer non-zeros than changes: intra
    symbols[3, 2, 2] = -2
    body, _ = coder.encode(state, symbols)
    assert np.array_equal(coder.decode(state, body).symbols, symbols)
    assert len(body) < 60  # as a delta: thousands of values


@pytest.mark.parametrize("value", [-400_000, -300, 17, 400_000])
def test_values_beyond_the_tables_come_back(coder: DeltaCoder, value: int) -> None:
    state = a_state()
    symbols = state.symbols.copy()
    symbols[100, 6, 8] = value
    body, _ = coder.encode(state, symbols)
    assert np.array_equal(coder.decode(state, body).symbols, symbols)


def test_nothing_changed_takes_no_byte_and_clears_the_counts(coder: DeltaCoder) -> None:
    state = a_state()
    body, after = coder.encode(state, state.symbols)
    assert body == b""
    assert not after.counts.any()
    assert not coder.decode(state, b"").counts.any()


def test_states_are_not_changed_in_place(coder: DeltaCoder) -> None:
    state, before = a_state(), a_state()
    coder.encode(state, changed(state, 0.5))
    assert np.array_equal(state.symbols, before.symbols)
    assert np.array_equal(state.counts, before.counts)


def test_hostile_bodies_give_a_state_or_an_error(coder: DeltaCoder) -> None:
    state = a_state()
    body, _ = coder.encode(state, changed(state, 0.3))
    rng = np.random.default_rng(2)
    for place in range(len(body)):
        damaged = bytearray(body)
        damaged[place] ^= int(rng.integers(1, 256))
        decode_or_refuse(coder, state, bytes(damaged))
        decode_or_refuse(coder, state, body[:place])
    for size in range(200):
        decode_or_refuse(coder, state, rng.bytes(size))


def decode_or_refuse(coder: DeltaCoder, state: MapState, body: bytes) -> None:
    try:
        found = coder.decode(state, body)
    except BitstreamError:
        return
    assert np.abs(found.symbols).max() < 2**20


def test_a_cut_body_is_refused(coder: DeltaCoder) -> None:
    state = a_state()
    body, _ = coder.encode(state, changed(state, 0.3))
    with pytest.raises(BitstreamError, match="delta body"):
        coder.decode(state, body[:-1])


def test_the_counter_counts_what_the_encoder_writes() -> None:
    """Ideal bits under tables of these very counts are the bytes, but for the closing."""
    state = a_state()
    symbols, counts = changed(state, 0.5), new_counts()
    after = count_change(state, symbols, counts)
    assert np.array_equal(after.symbols, symbols)
    tables = counted_tables(counts)
    columns = np.arange(256) - 128
    bits = sum(
        tables.estimate_bits(np.repeat(columns, row), table)
        for table, row in enumerate(counts)
        if row.any()
    )
    body, _ = DeltaCoder(tables).encode(state, symbols)
    assert abs(8 * len(body) - bits) <= 16 + 0.001 * bits


def test_symbols_of_another_shape_or_size_are_refused(coder: DeltaCoder) -> None:
    state = a_state()
    with pytest.raises(CodingError, match="expected"):
        coder.encode(state, state.symbols[:, :3])
    with pytest.raises(CodingError, match="magnitudes"):
        coder.encode(state, np.full(SHAPE, 2**20, np.int32))


def test_other_tables_are_refused(coder: DeltaCoder) -> None:
    few = SymbolTables(*(getattr(coder.tables, n) for n in ("low", "high", "frequencies")))
    assert DeltaCoder(few).tables is few
    with pytest.raises(ModelError, match="expected 253"):
        DeltaCoder(tables_from_probabilities([[0.5, 0.5]], 0, escape=False))
    wide = tables_from_probabilities(np.full((253, 4), 0.25), 0, escape=False)
    with pytest.raises(ModelError, match="modes 0 to 2"):
        DeltaCoder(wide)


def test_the_context_of_the_last_packet_matters(coder: DeltaCoder) -> None:
    state = a_state()
    quiet = replace(state, counts=np.zeros(SHAPE[1:], np.uint8))
    symbols = changed(state, 0.05)
    assert coder.encode(state, symbols)[0] != coder.encode(quiet, symbols)[0]
