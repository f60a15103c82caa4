"""Integer tables: what they promise, how close to optimal they are, and what they refuse."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cdvision.bench.entropy import gaussian_bits, log_normal_job
from cdvision.entropy.frequencies import TOTAL, optimal_frequencies
from cdvision.entropy.tables import (
    CodingError,
    SymbolTables,
    gaussian_tables,
    log_scale_table,
    nearest_scale,
    tables_from_probabilities,
)
from cdvision.errors import ModelError

GAUSSIANS = gaussian_tables(log_scale_table(levels=64))


def table_sums(tables: SymbolTables) -> np.ndarray:
    return np.add.reduceat(tables.frequencies.astype(np.int64), tables.starts)


def test_gaussian_tables_sum_to_the_total_and_start_with_skip() -> None:
    assert (table_sums(GAUSSIANS) == TOTAL).all()
    assert (GAUSSIANS.low[0], GAUSSIANS.high[0]) == (0, 0)
    assert GAUSSIANS.frequencies[:2].tolist() == [TOTAL, 0]
    assert (GAUSSIANS.frequencies[GAUSSIANS.escapes[1:]] >= 1).all()
    assert (np.diff(GAUSSIANS.high.astype(int)) >= 0).all()


@given(
    hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1)).filter(
        lambda p: p.sum() > 0.01
    )
)
@settings(max_examples=50, deadline=None)
def test_frequencies_cannot_be_improved_by_moving_one_slot(weights: np.ndarray) -> None:
    probabilities = weights / weights.sum()
    frequency = optimal_frequencies(probabilities)
    assert frequency.sum() == TOTAL
    assert frequency.min() >= 1
    gain = probabilities * np.log2((frequency + 1) / frequency)
    spare = frequency > 1
    loss = probabilities[spare] * np.log2(frequency[spare] / (frequency[spare] - 1))
    assert gain.max() <= loss.min() + 1e-12


@given(st.integers(1, 6), st.integers(1, 60), st.integers(-127, 60), st.booleans(), st.data())
@settings(max_examples=50, deadline=None)
def test_probability_rows_become_valid_tables(
    channels: int, width: int, low: int, escape: bool, data: st.DataObject
) -> None:
    weights = data.draw(hnp.arrays(np.float64, (channels, width), elements=st.floats(0.001, 1.0)))
    rows = weights / weights.sum(axis=1, keepdims=True) * (0.9 if escape else 1.0)
    tables = tables_from_probabilities(rows, low, escape=escape)
    assert (table_sums(tables) == TOTAL).all()
    assert ((tables.frequencies[tables.escapes] > 0) == escape).all()
    if not escape:
        assert (tables.low == low).all()
        assert (tables.high == low + width - 1).all()


@pytest.mark.parametrize(
    ("rows", "low"),
    [
        ([[0.5, 0.6]], 0),
        ([[-0.1, 1.0]], 0),
        ([0.5, 0.5], 0),
        ([[0.0]], 0),
        ([[np.nan]], 0),
        ([[0.5, 0.5]], 127),
        ([[1.0]], -128),
    ],
)
def test_impossible_probabilities_are_refused(rows: list, low: int) -> None:
    with pytest.raises(CodingError, match=r"expected|sum to"):
        tables_from_probabilities(rows, low)


def test_bad_scales_are_refused() -> None:
    for scales in ([[1.0]], [0.1, -1.0], [0.1, np.inf]):
        with pytest.raises(CodingError, match="scales"):
            gaussian_tables(scales)


def test_integer_tables_cost_under_a_tenth_of_a_percent() -> None:
    job, _ = log_normal_job(count=196_608, seed=3)
    ideal = gaussian_bits(job.symbols, job.scale_table[job.index])
    assert job.tables.estimate_bits(job.symbols, job.index) / ideal - 1 < 0.001


def test_estimate_counts_escapes() -> None:
    tables = gaussian_tables([0.1, 1.0])
    high = int(tables.high[1])
    escape = 12 - np.log2(int(tables.frequencies[tables.escapes[1]]))
    for distance, nibbles in ((0, 0), (1, 1), (15, 1), (16, 2), (255, 2), (256, 3)):
        for value in (high + 1 + distance, int(tables.low[1]) - 1 - distance):
            assert tables.estimate_bits([value], [1]) == pytest.approx(escape + 4 + 4 * nibbles)
    assert tables.estimate_bits([1], [0]) == np.inf
    assert tables.estimate_bits(np.zeros((0,), int), np.zeros((0,), int)) == 0


def test_nearest_scale_is_nearest_in_ratio() -> None:
    table = log_scale_table(levels=20)
    scales = np.exp(np.random.default_rng(0).normal(0, 2, 500))
    brute = np.abs(np.log(scales)[:, None] - np.log(table)).argmin(axis=1)
    assert (nearest_scale(scales, table) == brute).all()


def test_npz_round_trip_without_pickle() -> None:
    file = io.BytesIO()
    np.savez(file, **GAUSSIANS.to_arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        loaded = SymbolTables.from_arrays(arrays)
    assert loaded.canonical_bytes() == GAUSSIANS.canonical_bytes()


def test_canonical_bytes_are_pinned_little_endian() -> None:
    tables = tables_from_probabilities([[0.25, 0.5, 0.25]], low=-1, escape=False)
    expected = "434456540c01000000ffff01000004000800040000"
    assert tables.canonical_bytes().hex() == expected


def test_tables_cannot_be_changed_behind_the_hash() -> None:
    with pytest.raises(ValueError, match="read-only"):
        GAUSSIANS.frequencies[0] = 1


def damaged(**changes: object) -> dict:
    tables = tables_from_probabilities([[0.25, 0.5, 0.25]], low=-1, escape=False)
    return {**tables.to_arrays(), **changes}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"low": np.zeros(1, np.int16)}, "expected \\['frequencies'"),
        (damaged(precision=np.array([13], np.uint8)), "precision"),
        (damaged(low=np.array([-1.0])), "low: expected a vector of int16"),
        (damaged(low=np.array([None])), "low: expected a vector of int16"),
        (damaged(low=np.array([[-1]], np.int16)), "low: expected a vector"),
        (damaged(low=np.array([-128], np.int16)), "within \\[-127, 127\\]"),
        (damaged(high=np.array([128], np.int16)), "within \\[-127, 127\\]"),
        (damaged(high=np.array([-2], np.int16)), "within \\[-127, 127\\]"),
        (damaged(high=np.array([1, 1], np.int16)), "ranges"),
        (damaged(low=np.zeros(0, np.int16), high=np.zeros(0, np.int16)), "ranges"),
        (damaged(high=np.array([2], np.int16)), "expected 5 frequencies"),
        (damaged(frequencies=np.array([0, 4096, 0, 0], np.uint16)), "frequency >= 1"),
        (damaged(frequencies=np.array([1024, 2048, 1025, 0], np.uint16)), "found 4097"),
        (damaged(frequencies=np.array([65535, 4096, 1, 0], np.uint16)), "found 69632"),
    ],
)
def test_damaged_tables_are_refused(arrays: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        SymbolTables.from_arrays(arrays)


def test_too_many_tables_are_refused_before_they_cost_memory() -> None:
    count = 5000
    arrays = damaged(
        low=np.zeros(count, np.int16),
        high=np.zeros(count, np.int16),
        frequencies=np.tile(np.array([4096, 0], np.uint16), count),
    )
    with pytest.raises(ModelError, match="1 to 4096"):
        SymbolTables.from_arrays(arrays)
