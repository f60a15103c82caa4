"""The checkerboard codec: latents to bytes and back, causality, damage, and its fingerprint."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cdvision.entropy import CodingError, gaussian_tables, tables_from_probabilities
from cdvision.entropy.checkerboard import CheckerboardCoder
from cdvision.entropy.context_network import MAGNITUDES, OFFSETS, ContextNetwork, board_of
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.entropy.latent_coder import Latents
from cdvision.errors import BitstreamError, ModelError

QUALITIES, CHANNELS, HYPER_CHANNELS, BOUND, LEVELS = 3, 5, 2, 4, 12
FEATURES, TOLD, CONTEXT = 4, 3, 6
Arrays = dict[str, NDArray[np.generic]]


def layer(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    bias: NDArray[np.integer],
    shift: int,
    high: int,
    upsample: int = 1,
) -> IntegerLayer:
    weight = rng.integers(-40, 41, shape).astype(np.int8)
    return IntegerLayer(weight, bias.astype(np.int32), shift, 0, high, upsample)


@cache
def small_network() -> ContextNetwork:
    """Return random chains whose indices reach all tables, the skipped one too."""
    rng, out = np.random.default_rng(5), LEVELS - 1
    seen = FEATURES + len(OFFSETS) * TOLD

    def bias(rows: int, columns: int, high: int) -> NDArray[np.integer]:
        return rng.integers(0, high, (rows, columns))

    hyper = (
        layer(rng, (16, HYPER_CHANNELS, 3, 3), bias(1, 16, 600), 4, 127, 2),
        layer(rng, (4 * FEATURES, 4, 3, 3), bias(1, 4 * FEATURES, 4000), 6, 127, 2),
    )
    first = layer(rng, (CHANNELS, FEATURES, 1, 1), bias(QUALITIES, CHANNELS, 4000), 9, out)
    squeeze = layer(rng, (TOLD, CHANNELS, 1, 1), bias(1, TOLD, 400), 4, 127)
    gather = layer(rng, (CONTEXT, seen, 1, 1), bias(QUALITIES, CONTEXT, 8000), 7, 127)
    second = layer(rng, (CHANNELS, CONTEXT, 1, 1), bias(QUALITIES, CHANNELS, 4000), 9, out)
    return ContextNetwork(
        hyper=IntegerNetwork(hyper, BOUND),
        first=IntegerNetwork((first,), 127),
        squeeze=IntegerNetwork((squeeze,), 32),
        second=IntegerNetwork((gather, second), 127),
    )


@cache
def small_coder() -> CheckerboardCoder:
    prior = np.random.default_rng(11).dirichlet(np.ones(2 * BOUND + 1), QUALITIES * HYPER_CHANNELS)
    return CheckerboardCoder(
        symbol_tables=gaussian_tables(np.geomspace(0.11, 40.0, LEVELS)),
        hyper_tables=tables_from_probabilities(prior, -BOUND, escape=False),
        network=small_network(),
        qualities=QUALITIES,
        channels=CHANNELS,
    )


def random_latents(seed: int, height: int, width: int, spread: float = 3.0) -> Latents:
    rng, coder = np.random.default_rng(seed), small_coder()
    hyper = rng.integers(-BOUND, BOUND + 1, (HYPER_CHANNELS, *coder.hyper_size(height, width)))
    heavy = rng.standard_cauchy((CHANNELS, height, width)) * spread
    symbols = np.clip(np.rint(heavy), 1 - 2**20, 2**20 - 1)
    return Latents(symbols.astype(np.int32), hyper.astype(np.int32))


def index_map(latents: Latents, quality: int) -> NDArray[np.uint8]:
    """Table of every symbol (C, h, w), as the coder's passes have them."""
    channels, height, width = latents.symbols.shape
    board, indices = board_of(height, width), np.empty((channels, height * width), np.uint8)
    (_, indices[:, board.odd]), (_, indices[:, board.even]) = small_coder()._passes(
        latents, quality
    )
    return indices.reshape(latents.symbols.shape)


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


@pytest.mark.parametrize("quality", range(QUALITIES))
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1), (7, 8), (13, 11)])
def test_round_trip_at_the_edges(size: tuple[int, int], quality: int) -> None:
    coder, latents = small_coder(), random_latents(1, *size)
    body = coder.encode(latents, quality)
    assert same(coder.decode(body, *size, quality), coder.keep_coded(latents, quality))


def test_symbols_of_index_0_are_skipped_and_only_those() -> None:
    latents = random_latents(2, 24, 24, spread=60.0)
    index = index_map(latents, 0)
    kept = small_coder().keep_coded(latents, 0)
    assert np.array_equal(kept.symbols, np.where(index > 0, latents.symbols, 0))
    assert set(np.unique(index)) == set(range(LEVELS))
    for parity in (0, 1):
        cells = np.indices((24, 24)).sum(0) % 2 == parity
        assert 0.02 < (index[:, cells] == 0).mean() < 0.6


def test_odd_cells_know_no_symbol_and_even_cells_odd_neighbours_only() -> None:
    latents = random_latents(3, 9, 9)
    before = index_map(latents, 1)
    reached = set()
    for row in range(9):
        for column in range(9):
            changed = latents.symbols.copy()
            changed[:, row, column] += 15
            after = index_map(Latents(changed, latents.hyper), 1)
            moved = {(int(r), int(c)) for _, r, c in np.argwhere(after != before)}
            if (row + column) % 2 == 0:
                assert not moved
            near = {(row - down, column - right) for down, right in OFFSETS}
            assert moved <= near
            reached |= {(row - r, column - c) for r, c in moved}
    assert reached == set(OFFSETS), "some neighbour was never heard"


def test_skipped_neighbours_tell_nothing() -> None:
    latents = random_latents(4, 12, 12)
    index, loud = index_map(latents, 2), latents.symbols.copy()
    odd = np.indices((12, 12)).sum(0) % 2 == 1
    skipped = (index == 0) & odd
    assert skipped.any()
    loud[skipped] += 100
    assert np.array_equal(index_map(Latents(loud, latents.hyper), 2), index)


def test_neighbours_are_counted_from_the_cell() -> None:
    height, width = 5, 7
    board = board_of(height, width)
    for cell, neighbours in zip(board.even, board.neighbours, strict=True):
        row, column = divmod(int(cell), width)
        for (down, right), place in zip(OFFSETS, neighbours, strict=True):
            inside = 0 <= row + down < height and 0 <= column + right < width
            assert (place < len(board.odd)) == inside
            if inside:
                assert board.odd[place] == (row + down) * width + column + right


def test_the_largest_symbols_and_the_first_too_large_ones() -> None:
    coder, latents = small_coder(), random_latents(2, 6, 6)
    for value in (2**20 - 1, 1 - 2**20):
        latents.symbols[:] = value
        kept = coder.keep_coded(latents, 1)
        assert (kept.symbols == value).any()
        assert same(coder.decode(coder.encode(latents, 1), 6, 6, 1), kept)
    for value in (2**20, -(2**20), 2**31 - 1, -(2**31)):
        latents.symbols[:] = value
        with pytest.raises(CodingError, match="2\\^20"):
            coder.encode(latents, 1)


@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=25, deadline=None)
def test_the_estimate_is_what_is_written(seed: int, quality: int) -> None:
    """Symbols drawn from the very scales that code them, cell by cell as the passes see them."""
    coder = small_coder()
    latents, scales = random_latents(seed, 20, 17), np.geomspace(0.11, 40.0, LEVELS)
    for _ in range(2):  # odd cells first: what they hold moves the scales of even ones
        scale = scales[index_map(latents, quality)]
        drawn = np.rint(np.random.default_rng(seed).normal(size=scale.shape) * scale)
        latents = Latents(drawn.astype(np.int32), latents.hyper)
    written, ideal = len(coder.encode(latents, quality)), coder.estimate_bits(latents, quality) / 8
    assert ideal * 0.99 <= written <= ideal * 1.01 + 16


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
        again = CheckerboardCoder.from_arrays(dict(archive))
    assert again.fingerprint == coder.fingerprint
    latents = random_latents(6, 9, 5)
    assert again.encode(latents, 1) == coder.encode(latents, 1)


THREADED = """
import hashlib, sys
import numpy as np
from cdvision.entropy.checkerboard import CheckerboardCoder
from cdvision.entropy.latent_coder import Latents
with np.load(sys.argv[1]) as archive:
    coder = CheckerboardCoder.from_arrays(dict(archive))
rng, digest = np.random.default_rng(0), hashlib.sha256()
for quality in range(coder.qualities):
    z = rng.integers(-coder.network.bound, coder.network.bound + 1, (coder.hyper_channels, 12, 12))
    symbols = rng.integers(-9, 10, (coder.channels, 47, 48))
    digest.update(coder.encode(Latents(symbols.astype(np.int32), z.astype(np.int32)), quality))
print(digest.hexdigest())
"""


def test_one_and_two_threads_write_the_same_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "tables.npz", **small_coder().to_arrays())
    digests = set()
    for threads in "12":
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", THREADED, str(tmp_path / "tables.npz")],
            env={**os.environ, **dict.fromkeys(names, threads)},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def raised(*place: int) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        changed = array.copy()
        changed[place] += 1
        return changed

    return change


CHANGES: dict[str, tuple[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]]] = {
    "a weight from z": ("network/hyper/0/weight", raised(3, 1, 0, 2)),
    "a weight of the first pass": ("network/first/0/weight", raised(0, 0, 0, 0)),
    "a bias of one quality": ("network/first/0/bias", raised(2, 3)),
    "a weight of what is told": ("network/squeeze/0/weight", raised(0, 0, 0, 0)),
    "the bound of what is told": ("network/squeeze/bound", raised(0)),
    "a weight of a neighbour": ("network/second/0/weight", raised(0, FEATURES + 7, 0, 0)),
    "a shift of the second pass": ("network/second/1/settings", raised(0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_covers_every_chain(name: str) -> None:
    key, change = CHANGES[name]
    arrays = small_coder().to_arrays()
    changed = CheckerboardCoder.from_arrays(arrays | {key: change(arrays[key])})
    assert changed.fingerprint[:4] != small_coder().fingerprint[:4]


def test_the_fingerprint_covers_the_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = small_network().canonical_bytes()
    monkeypatch.setattr("cdvision.entropy.context_network.MAGNITUDES", MAGNITUDES[:-1])
    assert small_network().canonical_bytes() != before


def test_magnitudes_are_rounded_logarithms() -> None:
    exact = 8 * np.log2(1 + np.arange(len(MAGNITUDES)))
    assert np.array_equal(MAGNITUDES, np.rint(exact))
    assert np.abs(exact % 1 - 0.5).min() > 0.01  # no platform's log2 can round another way


def with_layer(name: str, position: int, **changes: object) -> Callable[[], ContextNetwork]:
    def build() -> ContextNetwork:
        network = small_network()
        chain: IntegerNetwork = getattr(network, name)
        layers = list(chain.layers)
        layers[position] = replace(layers[position], **changes)
        return replace(network, **{name: IntegerNetwork(tuple(layers), chain.bound)})

    return build


def with_bound(name: str, bound: int) -> Callable[[], ContextNetwork]:
    def build() -> ContextNetwork:
        network = small_network()
        return replace(network, **{name: replace(getattr(network, name), bound=bound)})

    return build


def with_chain(name: str, other: str) -> Callable[[], ContextNetwork]:
    return lambda: replace(small_network(), **{name: getattr(small_network(), other)})


def ones(*shape: int) -> NDArray[np.int8]:
    return np.ones(shape, np.int8)


MISFITS: dict[str, tuple[str, Callable[[], ContextNetwork]]] = {
    "features beyond the first pass's proof": ("first", with_bound("first", 126)),
    "features beyond the second pass's proof": ("second", with_bound("second", 126)),
    "magnitudes beyond the proof": ("squeeze", with_bound("squeeze", 31)),
    "a window where cells are listed": (
        "1x1",
        with_layer("squeeze", 0, weight=ones(TOLD, CHANNELS, 3, 3)),
    ),
    "a shuffle where cells are listed": (
        "1x1",
        with_layer("squeeze", 0, weight=ones(4 * TOLD, CHANNELS, 1, 1),
                   bias=np.zeros((1, 4 * TOLD), np.int32), upsample=2),
    ),
    "too few features for the first pass": (
        "first",
        with_layer("first", 0, weight=ones(CHANNELS, FEATURES - 1, 1, 1)),
    ),
    "other symbols": ("squeeze", with_layer("squeeze", 0, weight=ones(TOLD, CHANNELS + 1, 1, 1))),
    "too few neighbours": (
        "second",
        with_layer("second", 0, weight=ones(CONTEXT, FEATURES + 4 * TOLD, 1, 1)),
    ),
    "other indices": (
        "second's output",
        with_layer("second", 1, weight=ones(CHANNELS + 1, CONTEXT, 1, 1),
                   bias=np.zeros((1, CHANNELS + 1), np.int32)),
    ),
    "chains exchanged": ("context network", with_chain("first", "second")),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_chains_that_do_not_fit_are_a_model_error(name: str) -> None:
    message, build = MISFITS[name]
    with pytest.raises(ModelError, match=message):
        build()


@pytest.mark.parametrize("name", ["hyper", "first", "squeeze", "second"])
def test_the_proof_covers_every_chain(name: str) -> None:
    bias = getattr(small_network(), name).layers[0].bias
    with_layer(name, 0, bias=np.full_like(bias, 2**23))()
    with pytest.raises(ModelError, match="expected less than 2\\^24"):
        with_layer(name, 0, bias=np.full_like(bias, 2**24 - 1))()


def test_indices_without_a_table_are_a_model_error() -> None:
    for name, position in (("first", 0), ("second", 1)):
        with pytest.raises(ModelError, match="does not fit the symbol tables"):
            replace(small_coder(), network=with_layer(name, position, high=LEVELS)())


@pytest.mark.parametrize("key", small_coder().to_arrays())
def test_a_missing_or_spoiled_array_is_a_model_error(key: str) -> None:
    arrays: Arrays = small_coder().to_arrays()
    spoiled = [arrays[key].astype(object), arrays[key].astype(np.float32), arrays[key][:0]]
    for value in spoiled:
        with pytest.raises(ModelError):
            CheckerboardCoder.from_arrays(arrays | {key: value})
    with pytest.raises(ModelError):
        CheckerboardCoder.from_arrays({k: v for k, v in arrays.items() if k != key})


def test_an_unknown_array_is_a_model_error() -> None:
    arrays = small_coder().to_arrays()
    for key in ("network/other", "network/third/0/weight"):
        with pytest.raises(ModelError, match="unknown arrays"):
            CheckerboardCoder.from_arrays(arrays | {key: arrays["sizes"]})
