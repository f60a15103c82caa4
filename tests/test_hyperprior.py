"""The hyperprior codec: latents to bytes and back, its estimate, damage, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import cdvision
from cdvision.entropy import CodingError, gaussian_tables, tables_from_probabilities
from cdvision.entropy.hyperprior import HyperpriorCoder, Latents
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.errors import BitstreamError, ModelError
from cdvision.stream import read_stream

QUALITIES, CHANNELS, HYPER_CHANNELS, BOUND, LEVELS = 3, 5, 2, 4, 12
Arrays = dict[str, NDArray[np.generic]]


@cache
def small_coder() -> HyperpriorCoder:
    """Return a coder with random weights whose indices reach all tables, the skipped one too."""
    rng = np.random.default_rng(11)
    layers = (
        IntegerLayer(
            rng.integers(-40, 41, (16, HYPER_CHANNELS, 3, 3)).astype(np.int8),
            rng.integers(0, 300, (1, 16)).astype(np.int32), 4, 0, 127, 2,
        ),
        IntegerLayer(
            rng.integers(-40, 41, (4 * CHANNELS, 4, 3, 3)).astype(np.int8),
            rng.integers(0, 2000, (QUALITIES, 4 * CHANNELS)).astype(np.int32), 9, 0, LEVELS - 1, 2,
        ),
    )  # fmt: skip
    prior = rng.dirichlet(np.ones(2 * BOUND + 1), QUALITIES * HYPER_CHANNELS)
    return HyperpriorCoder(
        symbol_tables=gaussian_tables(np.geomspace(0.11, 40.0, LEVELS)),
        hyper_tables=tables_from_probabilities(prior, -BOUND, escape=False),
        network=IntegerNetwork(layers, BOUND),
        qualities=QUALITIES,
        channels=CHANNELS,
    )


def random_latents(seed: int, height: int, width: int, spread: float = 3.0) -> Latents:
    rng, coder = np.random.default_rng(seed), small_coder()
    hyper = rng.integers(-BOUND, BOUND + 1, (HYPER_CHANNELS, *coder.hyper_size(height, width)))
    heavy = rng.standard_cauchy((CHANNELS, height, width)) * spread
    symbols = np.clip(np.rint(heavy), 1 - 2**20, 2**20 - 1)
    return Latents(symbols.astype(np.int32), hyper.astype(np.int32))


def same(first: Latents, second: Latents) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.dtype == b.dtype == np.int32 and np.array_equal(a, b) for a, b in pairs)


SIZES = st.integers(1, 11)


@given(
    seed=st.integers(0, 2**32 - 1),
    height=SIZES,
    width=SIZES,
    quality=st.integers(0, QUALITIES - 1),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e3, 1e6]),
)
@settings(max_examples=150, deadline=None)
def test_round_trip(seed: int, height: int, width: int, quality: int, spread: float) -> None:
    coder, latents = small_coder(), random_latents(seed, height, width, spread)
    decoded = coder.decode(coder.encode(latents, quality), height, width, quality)
    kept = coder.keep_coded(latents, quality)
    assert same(decoded, kept)
    assert same(coder.keep_coded(kept, quality), kept)
    assert coder.encode(kept, quality) == coder.encode(latents, quality)


def test_some_symbols_are_skipped_and_some_escape() -> None:
    coder = small_coder()
    latents = random_latents(1, 24, 24, spread=60.0)
    kept = coder.keep_coded(latents, 0)
    assert 0 < (kept.symbols != latents.symbols).mean() < 0.5
    assert np.abs(kept.symbols).max() > 1000


def test_the_largest_symbols_and_the_first_too_large_ones() -> None:
    coder = small_coder()
    latents = random_latents(2, 6, 6)
    for value in (2**20 - 1, 1 - 2**20):
        latents.symbols[:] = value
        kept = coder.keep_coded(latents, 1)
        assert (kept.symbols == value).any()
        assert same(coder.decode(coder.encode(latents, 1), 6, 6, 1), kept)
    for value in (2**20, -(2**20), 2**31 - 1, -(2**31)):
        latents.symbols[:] = value
        with pytest.raises(CodingError, match="2\\^20"):
            coder.encode(latents, 1)


def test_hyper_latents_outside_the_bound_cannot_be_coded() -> None:
    latents = random_latents(3, 5, 5)
    latents.hyper[0, 0, 0] = BOUND + 1
    with pytest.raises(CodingError, match="no escape"):
        small_coder().encode(latents, 0)


@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=30, deadline=None)
def test_the_estimate_is_what_is_written(seed: int, quality: int) -> None:
    coder, latents = small_coder(), random_latents(seed, 20, 17)
    written, ideal = len(coder.encode(latents, quality)), coder.estimate_bits(latents, quality) / 8
    assert ideal * 0.99 <= written <= ideal * 1.01 + 28


def test_every_quality_and_channel_has_its_own_table() -> None:
    coder, silent = small_coder(), Latents(*random_latents(8, 9, 9))
    silent.symbols[:] = 0
    estimates = set()
    for quality in range(QUALITIES):
        index = coder.network(silent.hyper, quality)[:, :9, :9]
        bits = float(coder.symbol_tables.costs[index, 128].sum())
        for channel, values in enumerate(silent.hyper):
            table = quality * HYPER_CHANNELS + channel
            bits += float(coder.hyper_tables.costs[table, values + 128].sum())
        assert coder.estimate_bits(silent, quality) == pytest.approx(bits)
        estimates.add(len(coder.encode(silent, quality)))
    assert len(estimates) == QUALITIES


@pytest.mark.parametrize("quality", [1, 4, 8])
def test_the_estimate_on_real_latents(
    model: cdvision.Model, photos: list[Path], quality: int
) -> None:
    for photo in photos:
        stream = model.encode(photo, quality)
        ideal = model.package.coder.estimate_bits(model.open(stream).latents(), quality - 1) / 8
        (layer,) = read_stream(stream).layers
        assert ideal * 0.99 <= len(layer.body) <= ideal * 1.01 + 28, photo.name
        assert len(stream) - len(layer.body) <= 28, photo.name


def test_a_mean_of_zero_bits_a_symbol_costs_the_fixed_bytes_only() -> None:
    coder = small_coder()
    empty = coder.keep_coded(random_latents(4, 9, 9, spread=0.0), 0)
    assert (empty.symbols == 0).all()
    hyper_only = Latents(np.zeros((CHANNELS, 1, 1), np.int32), empty.hyper[:, :1, :1])
    assert len(coder.encode(hyper_only, 0)) <= 16 + 2 * HYPER_CHANNELS + 2 * CHANNELS


def body_and_size() -> tuple[bytes, int, int]:
    return small_coder().encode(random_latents(5, 9, 7, spread=30.0), 2), 9, 7


def decodes(body: bytes, height: int, width: int, quality: int) -> bool:
    """Whether bytes decode to latents of the right shapes; False where they are refused."""
    coder = small_coder()
    try:
        latents = coder.decode(body, height, width, quality)
    except BitstreamError:
        return False
    assert latents.symbols.shape == (CHANNELS, height, width)
    assert latents.hyper.shape == (HYPER_CHANNELS, *coder.hyper_size(height, width))
    assert np.abs(latents.hyper).max() <= BOUND
    return True


def test_a_truncated_body_is_refused_at_every_byte() -> None:
    body, height, width = body_and_size()
    assert len(body) > 200
    assert decodes(body, height, width, 2)
    assert not any(decodes(body[:size], height, width, 2) for size in range(len(body)))


def test_a_body_of_another_size_is_refused() -> None:
    body, height, width = body_and_size()
    others = [(h, w) for h in range(1, 15) for w in range(1, 15) if h * w != height * width]
    assert not any(decodes(body, h, w, 2) for h, w in others)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_damage_gives_latents_or_a_bitstream_error(changes: list[tuple[int, int]]) -> None:
    body, height, width = body_and_size()
    damaged = bytearray(body)
    for position, value in changes:
        damaged[position % len(body)] = value
    for quality in range(QUALITIES):
        decodes(bytes(damaged), height, width, quality)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_latents_or_a_bitstream_error(body: bytes) -> None:
    decodes(body, 5, 6, 0)


def test_arrays_bring_it_back(tmp_path: Path) -> None:
    coder = small_coder()
    np.savez(tmp_path / "tables.npz", **coder.to_arrays())
    with np.load(tmp_path / "tables.npz", allow_pickle=False) as archive:
        again = HyperpriorCoder.from_arrays(dict(archive))
    assert again.fingerprint == coder.fingerprint
    latents = random_latents(6, 9, 5)
    assert again.encode(latents, 1) == coder.encode(latents, 1)


def moved_slot(frequencies: NDArray[np.generic]) -> NDArray[np.generic]:
    changed = frequencies.copy()
    wide = int(np.flatnonzero(changed[:-1] > 2)[-1])
    changed[wide] -= 1
    changed[wide - 1] += 1
    return changed


def raised(*place: int) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        changed = array.copy()
        changed[place] += 1
        return changed

    return change


CHANGES: dict[str, tuple[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]]] = {
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
    arrays = small_coder().to_arrays()
    changed = HyperpriorCoder.from_arrays(arrays | {key: change(arrays[key])})
    assert changed.fingerprint[:4] != small_coder().fingerprint[:4]


def test_the_fingerprint_covers_ranges() -> None:
    arrays, fingerprints = small_coder().to_arrays(), set()
    for low in (-BOUND, 1 - BOUND):  # the same frequencies, of symbols one further up
        width = arrays["hyper/high"].astype(np.int16) - arrays["hyper/low"].astype(np.int16)
        shifted = {"hyper/low": arrays["hyper/low"] * 0 + np.int16(low), "network/bound": BIGGER}
        shifted["hyper/high"] = shifted["hyper/low"] + width
        fingerprints.add(HyperpriorCoder.from_arrays(arrays | shifted).fingerprint)
    assert len(fingerprints) == 2


BIGGER = np.array([BOUND + 1], np.int32)


def exchanged(**parts: object) -> Callable[[], HyperpriorCoder]:
    def build() -> HyperpriorCoder:
        coder = small_coder()
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
    assert exchanged()().fingerprint == small_coder().fingerprint
    with pytest.raises(ModelError, match="entropy model"):
        MISFITS[name]()


@pytest.mark.parametrize("sizes", [None, [3], [3.0, 5.0], [np.nan, 5.0], [3, 4], [0, 5], [-3, 5]])
def test_damaged_sizes_are_a_model_error(sizes: list[float] | None) -> None:
    arrays: Arrays = small_coder().to_arrays()
    del arrays["sizes"]
    if sizes is not None:
        whole = all(isinstance(size, int) for size in sizes)
        arrays["sizes"] = np.array(sizes, np.int32 if whole else np.float64)
    with pytest.raises(ModelError):
        HyperpriorCoder.from_arrays(arrays)


@pytest.mark.parametrize("key", small_coder().to_arrays())
def test_a_missing_or_spoiled_array_is_a_model_error(key: str) -> None:
    arrays: Arrays = small_coder().to_arrays()
    spoiled = [arrays[key].astype(object), arrays[key].astype(np.float32), arrays[key][:0]]
    for value in spoiled:
        with pytest.raises(ModelError):
            HyperpriorCoder.from_arrays(arrays | {key: value})
    with pytest.raises(ModelError):
        HyperpriorCoder.from_arrays({k: v for k, v in arrays.items() if k != key})
