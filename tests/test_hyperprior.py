"""The hyperprior codec: latents to bytes and back, its estimate, damage, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coders import (
    BOUND,
    CHANNELS,
    HYPER_CHANNELS,
    QUALITIES,
    Arrays,
    Change,
    map_shapes,
    moved_slot,
    raised,
    random_latents,
    small_hyperprior,
)

import cdvision
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.tables import CodingError, gaussian_tables, tables_from_probabilities
from cdvision.errors import ModelError
from cdvision.stream import read_stream


def test_some_symbols_are_skipped_and_some_escape() -> None:
    coder = small_hyperprior()
    latents = random_latents(1, 24, 24, spread=60.0)
    kept = coder.received(latents, 0)["symbols"]
    assert 0 < (kept != latents["symbols"]).mean() < 0.5
    assert np.abs(kept).max() > 1000


@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=30, deadline=None)
def test_the_estimate_is_what_is_written(seed: int, quality: int) -> None:
    coder, latents = small_hyperprior(), random_latents(seed, 20, 17)
    written = len(coder.encode(latents, quality)[0])
    ideal = coder.estimate_bits(latents, quality)[0] / 8
    assert ideal * 0.99 <= written <= ideal * 1.01 + 28


@pytest.mark.parametrize("excess", [0, 1, 1000])
def test_a_quality_without_tables_is_refused(excess: int) -> None:
    coder, latents = small_hyperprior(), random_latents(0, 8, 8)
    bodies = coder.encode(coder.received(latents, 0), 0)
    with pytest.raises(CodingError, match="quality"):
        coder.decode(bodies, coder.qualities + excess, map_shapes(8, 8))


def test_every_quality_and_channel_has_its_own_table() -> None:
    coder, silent = small_hyperprior(), random_latents(8, 9, 9)
    silent["symbols"][:] = 0
    estimates = set()
    for quality in range(QUALITIES):
        index = coder.network(silent["hyper"], quality)[:, :9, :9]
        bits = float(coder.symbol_tables.costs[index, 128].sum())
        for channel, values in enumerate(silent["hyper"]):
            table = quality * HYPER_CHANNELS + channel
            bits += float(coder.hyper_tables.costs[table, values + 128].sum())
        assert coder.estimate_bits(silent, quality) == {0: pytest.approx(bits)}
        estimates.add(len(coder.encode(silent, quality)[0]))
    assert len(estimates) == QUALITIES


@pytest.mark.parametrize("quality", [1, 4, 8])
def test_the_estimate_on_real_latents(
    model: cdvision.Model, photos: list[Path], quality: int
) -> None:
    for photo in photos:
        stream = model.encode(photo, quality)
        latents = model.open(stream).latents()
        bits = model.package.coder.estimate_bits(latents, quality - 1)
        descriptor, layer = read_stream(stream).layers
        assert list(bits) == [descriptor.id, layer.id]
        for one, ideal in ((descriptor, bits[0] / 8), (layer, bits[1] / 8)):
            assert ideal * 0.99 <= len(one.body) <= ideal * 1.01 + 28, photo.name


def test_a_mean_of_zero_bits_a_symbol_costs_the_fixed_bytes_only() -> None:
    coder = small_hyperprior()
    empty = coder.received(random_latents(4, 9, 9, spread=0.0), 0)
    assert (empty["symbols"] == 0).all()
    hyper_only = {
        "symbols": np.zeros((CHANNELS, 1, 1), np.int32),
        "hyper": empty["hyper"][:, :1, :1],
    }
    assert len(coder.encode(hyper_only, 0)[0]) <= 16 + 2 * HYPER_CHANNELS + 2 * CHANNELS


CHANGES: dict[str, tuple[str, Change]] = {
    "a symbol frequency": ("symbols/frequencies", moved_slot),
    "a hyper frequency": ("hyper/frequencies", moved_slot),
    "a weight of the first layer": ("network/0/weight", raised(3, 1, 0, 2)),
    "a weight of the last layer": ("network/1/weight", raised(0, 0, 0, 0)),
    "a bias": ("network/0/bias", raised(0, 7)),
    "a bias of one quality": ("network/1/bias", raised(2, 3)),
    "a shift": ("network/0/settings", raised(0)),
    "a lower bound": ("network/0/settings", raised(1)),
    "an upper bound": ("network/0/settings", lambda a: a - np.array([0, 0, 1, 0], np.int32)),
    "the bound of the input": ("network/bound", raised(0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_covers_every_number(name: str) -> None:
    key, change = CHANGES[name]
    arrays = small_hyperprior().to_arrays()
    changed = HyperpriorCoder.from_arrays(arrays | {key: change(arrays[key])})
    assert changed.fingerprint[:4] != small_hyperprior().fingerprint[:4]


def test_the_fingerprint_covers_ranges() -> None:
    arrays, fingerprints = small_hyperprior().to_arrays(), set()
    for low in (-BOUND, 1 - BOUND):  # the same frequencies, of symbols one further up
        width = arrays["hyper/high"].astype(np.int16) - arrays["hyper/low"].astype(np.int16)
        shifted = {"hyper/low": arrays["hyper/low"] * 0 + np.int16(low), "network/bound": BIGGER}
        shifted["hyper/high"] = shifted["hyper/low"] + width
        fingerprints.add(HyperpriorCoder.from_arrays(arrays | shifted).fingerprint)
    assert len(fingerprints) == 2


BIGGER = np.array([BOUND + 1], np.int32)


def exchanged(**parts: object) -> Callable[[], HyperpriorCoder]:
    def build() -> HyperpriorCoder:
        coder = small_hyperprior()
        names = ("symbol_tables", "hyper_tables", "network", "qualities", "channels")
        return HyperpriorCoder(**{name: getattr(coder, name) for name in names} | parts)

    return build


PRIOR = np.full((QUALITIES * HYPER_CHANNELS, 2 * BOUND + 1), 1 / (2 * BOUND + 1))
MISFITS = {
    "too few symbol tables": exchanged(symbol_tables=gaussian_tables([0.1, 1.0, 2.0])),
    "another number of channels": exchanged(channels=CHANNELS + 1),
    "another number of qualities": exchanged(qualities=QUALITIES + 1),
    "hyper tables with an escape": exchanged(
        hyper_tables=tables_from_probabilities(PRIOR * 0.99, -BOUND)
    ),
    "hyper tables below the bound": exchanged(
        hyper_tables=tables_from_probabilities(PRIOR, -BOUND - 1, escape=False)
    ),
    "hyper tables above the bound": exchanged(
        hyper_tables=tables_from_probabilities(PRIOR, 1 - BOUND, escape=False)
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_a_model_error(name: str) -> None:
    assert exchanged()().fingerprint == small_hyperprior().fingerprint
    with pytest.raises(ModelError, match="entropy model"):
        MISFITS[name]()


@pytest.mark.parametrize("sizes", [None, [3], [3.0, 5.0], [np.nan, 5.0], [3, 4], [0, 5], [-3, 5]])
def test_damaged_sizes_are_a_model_error(sizes: list[float] | None) -> None:
    arrays: Arrays = small_hyperprior().to_arrays()
    del arrays["sizes"]
    if sizes is not None:
        whole = all(isinstance(size, int) for size in sizes)
        arrays["sizes"] = np.array(sizes, np.int32 if whole else np.float64)
    with pytest.raises(ModelError):
        HyperpriorCoder.from_arrays(arrays)
