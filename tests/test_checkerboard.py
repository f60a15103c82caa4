"""The checkerboard codec: latents to bytes and back, causality, damage, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_coders import (
    CHANNELS,
    CONTEXT,
    FEATURES,
    LEVELS,
    QUALITIES,
    TOLD,
    Change,
    raised,
    random_latents,
    small_checkerboard,
    small_context,
)

from cdvision.entropy.coder import Latents
from cdvision.entropy.context_network import MAGNITUDES, OFFSETS, ContextNetwork, board_of
from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.errors import ModelError
from cdvision.models.dicm.receiver.coder import CheckerboardCoder


def index_map(latents: Latents, quality: int) -> NDArray[np.uint8]:
    """Table of every symbol (C, h, w), as the coder's passes have them."""
    symbols, hyper = latents["symbols"], latents["hyper"]
    channels, height, width = symbols.shape
    board, indices = board_of(height, width), np.empty((channels, height * width), np.uint8)
    (_, indices[:, board.odd]), (_, indices[:, board.even]) = small_checkerboard()._passes(
        symbols, hyper, quality
    )
    return indices.reshape(symbols.shape)


def test_symbols_of_index_0_are_skipped_and_only_those() -> None:
    latents = random_latents(2, 24, 24, spread=60.0)
    index = index_map(latents, 0)
    kept = small_checkerboard().received(latents, 0)["symbols"]
    assert np.array_equal(kept, np.where(index > 0, latents["symbols"], 0))
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
            changed = latents["symbols"].copy()
            changed[:, row, column] += 15
            after = index_map(latents | {"symbols": changed}, 1)
            moved = {(int(r), int(c)) for _, r, c in np.argwhere(after != before)}
            if (row + column) % 2 == 0:
                assert not moved
            near = {(row - down, column - right) for down, right in OFFSETS}
            assert moved <= near
            reached |= {(row - r, column - c) for r, c in moved}
    assert reached == set(OFFSETS), "some neighbour was never heard"


def test_skipped_neighbours_tell_nothing() -> None:
    latents = random_latents(4, 12, 12)
    index, loud = index_map(latents, 2), latents["symbols"].copy()
    odd = np.indices((12, 12)).sum(0) % 2 == 1
    skipped = (index == 0) & odd
    assert skipped.any()
    loud[skipped] += 100
    assert np.array_equal(index_map(latents | {"symbols": loud}, 2), index)


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


@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=25, deadline=None)
def test_the_estimate_is_what_is_written(seed: int, quality: int) -> None:
    """Symbols drawn from the very scales that code them, cell by cell as the passes see them."""
    coder = small_checkerboard()
    latents, scales = random_latents(seed, 20, 17), np.geomspace(0.11, 40.0, LEVELS)
    for _ in range(2):  # odd cells first: what they hold moves the scales of even ones
        scale = scales[index_map(latents, quality)]
        drawn = np.rint(np.random.default_rng(seed).normal(size=scale.shape) * scale)
        latents["symbols"] = drawn.astype(np.int32)
    written = len(coder.encode(latents, quality)[0])
    ideal = coder.estimate_bits(latents, quality)[0] / 8
    assert ideal * 0.99 <= written <= ideal * 1.01 + 16


CHANGES: dict[str, tuple[str, Change]] = {
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
    arrays = small_checkerboard().to_arrays()
    changed = CheckerboardCoder.from_arrays(arrays | {key: change(arrays[key])})
    assert changed.fingerprint[:4] != small_checkerboard().fingerprint[:4]


def test_the_fingerprint_covers_the_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = small_context().canonical_bytes()
    monkeypatch.setattr("cdvision.entropy.context_network.MAGNITUDES", MAGNITUDES[:-1])
    assert small_context().canonical_bytes() != before


def test_magnitudes_are_rounded_logarithms() -> None:
    exact = 8 * np.log2(1 + np.arange(len(MAGNITUDES)))
    assert np.array_equal(MAGNITUDES, np.rint(exact))
    assert np.abs(exact % 1 - 0.5).min() > 0.01  # no platform's log2 can round another way


def with_layer(name: str, position: int, **changes: object) -> Callable[[], ContextNetwork]:
    def build() -> ContextNetwork:
        network = small_context()
        chain: IntegerNetwork = getattr(network, name)
        layers = list(chain.layers)
        layers[position] = replace(layers[position], **changes)
        return replace(network, **{name: IntegerNetwork(tuple(layers), chain.bound)})

    return build


def with_bound(name: str, bound: int) -> Callable[[], ContextNetwork]:
    def build() -> ContextNetwork:
        network = small_context()
        return replace(network, **{name: replace(getattr(network, name), bound=bound)})

    return build


def with_chain(name: str, other: str) -> Callable[[], ContextNetwork]:
    return lambda: replace(small_context(), **{name: getattr(small_context(), other)})


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
    bias = getattr(small_context(), name).layers[0].bias
    with_layer(name, 0, bias=np.full_like(bias, 2**23))()
    with pytest.raises(ModelError, match="expected less than 2\\^24"):
        with_layer(name, 0, bias=np.full_like(bias, 2**24 - 1))()


def test_indices_without_a_table_are_a_model_error() -> None:
    for name, position in (("first", 0), ("second", 1)):
        with pytest.raises(ModelError, match="does not fit the symbol tables"):
            replace(small_checkerboard(), network=with_layer(name, position, high=LEVELS)())


def test_an_unknown_array_is_a_model_error() -> None:
    arrays = small_checkerboard().to_arrays()
    for key in ("network/other", "network/third/0/weight"):
        with pytest.raises(ModelError, match="unknown arrays"):
            CheckerboardCoder.from_arrays(arrays | {key: arrays["sizes"]})
