"""The hsc codec: two layers to bytes and back, causality, estimate, damage, and its fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_coders import Change, first_of, moved_slot, raised, same_latents

from cdvision.entropy.coder import Latents, Symbols
from cdvision.entropy.context_network import MAGNITUDES
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.entropy.tables import (
    CodingError,
    SymbolTables,
    gaussian_tables,
    tables_from_probabilities,
)
from cdvision.errors import BitstreamError, ModelError
from cdvision.models.faces.receiver.hsc import HscCoder
from cdvision.package.families import HSC, HYPERPRIOR, coder_class

QUALITIES, BASE, SLICE, SLICES, SIDE, BOUND, LEVELS = 3, 4, 2, 3, 3, 5, 12
SCALES = np.geomspace(0.11, 40.0, LEVELS)
Arrays = dict[str, NDArray[np.generic]]


def layer(
    rng: np.random.Generator, shape: tuple[int, ...], rows: int, high: int, shift: int, **more: int
) -> IntegerLayer:
    weight = rng.integers(-40, 41, shape).astype(np.int8)
    middle = rng.integers(0, high << shift, (rows, shape[0]))
    return IntegerLayer(weight, middle.astype(np.int32), shift, 0, high, **more)


def slice_network(rng: np.random.Generator, position: int) -> IntegerNetwork:
    first = layer(rng, (5, SIDE + position * SLICE, 3, 3), 1, 127, 6)
    return IntegerNetwork((first, layer(rng, (SLICE, 5, 1, 1), QUALITIES, LEVELS - 1, 9)), 127)


def base_tables() -> SymbolTables:
    """Tables of which the second and last are silent."""
    prior = np.random.default_rng(3).dirichlet(np.ones(2 * BOUND + 1), QUALITIES * BASE)
    return with_silence(tables_from_probabilities(prior, -BOUND, escape=False), [1, len(prior) - 1])


def with_silence(tables: SymbolTables, silent: list[int]) -> SymbolTables:
    parts = np.split(tables.frequencies, tables.escapes[:-1] + 1)
    for k in silent:
        parts[k] = np.array([4096, 0], np.uint16)
    low, high = tables.low.copy(), tables.high.copy()
    low[silent] = high[silent] = 0
    return SymbolTables(low, high, np.concatenate(parts))


@cache
def small_coder() -> HscCoder:
    """Return a coder with random weights whose indices reach all tables, the skipped one too."""
    rng = np.random.default_rng(11)
    side = (
        layer(rng, (16, BASE, 3, 3), 1, 127, 3, upsample=2),
        layer(rng, (SIDE, 4, 3, 3), 1, 127, 6),
    )
    return HscCoder(
        base_tables=base_tables(),
        symbol_tables=gaussian_tables(SCALES),
        side=IntegerNetwork(side, BOUND),
        slices=tuple(slice_network(rng, k) for k in range(SLICES)),
        qualities=QUALITIES,
        base_side=2,
    )


def random_latents(seed: int, spread: float = 3.0) -> Latents:
    rng, shapes = np.random.default_rng(seed), small_coder().shapes
    heavy = rng.standard_cauchy(shapes["detail"]) * spread
    symbols = np.clip(np.rint(heavy), 1 - 2**20, 2**20 - 1)
    base = rng.integers(-BOUND, BOUND + 1, shapes["base"])
    return {"base": base.astype(np.int32), "detail": symbols.astype(np.int32)}


def indices(latents: Latents, quality: int) -> NDArray[np.integer]:
    """The tables of the detail, slice by slice as the coder asks."""
    seen: list[NDArray[np.integer]] = []
    coder = small_coder()

    def code(part: object, index: NDArray[np.integer], tables: SymbolTables) -> Symbols:
        del tables
        seen.append(index)
        kept: Symbols = np.where(index > 0, latents["detail"][part], 0)  # type: ignore[index]
        return kept

    coder._code_layer(1, first_of(latents, 1), quality, code)
    return np.concatenate(seen)


def test_shapes_and_ids() -> None:
    coder = small_coder()
    assert coder.latent_layers == {"base": 0, "detail": 1}
    assert coder.shapes == {"base": (BASE, 2, 2), "detail": (SLICE * SLICES, 4, 4)}


@given(
    seed=st.integers(0, 2**32 - 1),
    quality=st.integers(0, QUALITIES - 1),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e3, 1e6]),
    layers=st.integers(1, 2),
)
@settings(max_examples=120, deadline=None)
def test_round_trip(seed: int, quality: int, spread: float, layers: int) -> None:
    coder, latents = small_coder(), first_of(random_latents(seed, spread), layers)
    bodies = coder.encode(latents, quality)
    kept = coder.received(latents, quality)
    assert list(bodies) == list(range(layers))
    assert same_latents(coder.decode(bodies, quality, coder.shapes), kept)
    assert same_latents(coder.received(kept, quality), kept)
    assert coder.encode(kept, quality) == bodies
    alone = coder.decode({0: bodies[0]}, quality, coder.shapes)
    assert same_latents(alone, first_of(kept, 1))  # a prefix is a stream of its own


def test_silent_channels_and_skipped_symbols_are_lost_and_others_escape() -> None:
    coder, latents = small_coder(), random_latents(1, spread=60.0)
    base, detail = coder.received(latents, 0).values()
    assert (base[1] == 0).all()
    assert np.array_equal(base[[0, 2, 3]], latents["base"][[0, 2, 3]])
    assert 0 < (detail != latents["detail"]).mean() < 0.6
    assert np.abs(detail).max() > 1000


def test_a_base_out_of_range_becomes_the_nearest_that_can_be_told() -> None:
    latents = random_latents(3)
    latents["base"][0], latents["base"][2] = 99, -99
    base = small_coder().received(latents, 1)["base"]
    assert (base[0] == BOUND).all()
    assert (base[2] == -BOUND).all()


def test_tables_depend_on_the_base_and_on_earlier_slices_only() -> None:
    latents = random_latents(4)
    before = indices(latents, 0)
    assert len(np.unique(before)) == LEVELS
    for position in range(SLICES):
        loud = latents | {"detail": latents["detail"].copy()}
        loud["detail"][SLICE * position : SLICE * (position + 1)] += 9
        after, seen = indices(loud, 0), SLICE * (position + 1)
        assert np.array_equal(after[:seen], before[:seen])
        assert np.array_equal(after, before) == (position == SLICES - 1)
    assert not np.array_equal(indices(latents | {"base": -latents["base"]}, 0), before)
    assert not np.array_equal(indices(latents, 1), before)


@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=25, deadline=None)
def test_the_estimate_is_what_is_written(seed: int, quality: int) -> None:
    """Symbols drawn from the very scales that code them, slice by slice."""
    coder, latents = small_coder(), random_latents(seed)
    for _ in range(SLICES):  # what a slice holds moves the scales of those behind it
        scale = SCALES[indices(latents, quality)]
        drawn = np.rint(np.random.default_rng(seed).normal(size=scale.shape) * scale)
        latents["detail"] = drawn.astype(np.int32)
    bodies, bits = coder.encode(latents, quality), coder.estimate_bits(latents, quality)
    assert list(bodies) == list(bits) == [0, 1]
    for body, ideal in zip(bodies.values(), bits.values(), strict=True):
        assert ideal / 8 * 0.99 <= len(body) <= ideal / 8 * 1.01 + 2


def test_every_quality_and_channel_has_its_own_table() -> None:
    coder, latents = small_coder(), first_of(random_latents(8), 1)
    for quality in range(QUALITIES):
        kept = coder.received(latents, quality)["base"]
        table = quality * BASE + np.arange(BASE)[:, None, None]
        expected = float(coder.base_tables.costs[table, kept + 128].sum())
        assert coder.estimate_bits(latents, quality) == {0: pytest.approx(expected)}


def test_the_largest_symbols_and_the_first_too_large_ones() -> None:
    coder, latents = small_coder(), random_latents(2)
    for value in (2**20 - 1, 1 - 2**20):
        latents["detail"][:] = value
        kept = coder.received(latents, 1)
        assert (kept["detail"] == value).any()
        assert same_latents(coder.decode(coder.encode(latents, 1), 1, coder.shapes), kept)
    for value in (2**20, -(2**31)):
        latents["detail"][:] = value
        with pytest.raises(CodingError, match="2\\^20"):
            coder.encode(latents, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": lambda x: x[:2]}, "'base': expected int32 of shape"),
        ({"detail": lambda x: x.astype(np.int64)}, "'detail': expected int32 .* found int64"),
        ({"base": lambda x: x.astype(np.float32)}, "'base': expected int32 .* found float32"),
    ],
)
def test_wrong_latents(change: dict[str, Callable[[Symbols], Symbols]], message: str) -> None:
    latents = random_latents(0)
    with pytest.raises(CodingError, match=message):
        small_coder().encode(latents | {name: of(latents[name]) for name, of in change.items()}, 0)


def test_wrong_qualities_and_unknown_layers() -> None:
    coder, latents = small_coder(), random_latents(0)
    for quality in (-1, QUALITIES):
        with pytest.raises(CodingError, match="quality: expected 0 to 2"):
            coder.encode(latents, quality)
    with pytest.raises(BitstreamError, match="layer: expected layer 0 or layer 1, found 2, 3"):
        coder.decode({2: b"", 3: b""}, 0, coder.shapes)


def bodies_of_a_face() -> dict[int, bytes]:
    return small_coder().encode(random_latents(5, spread=30.0), 2)


def decodes(bodies: dict[int, bytes], quality: int) -> bool:
    """Whether bytes decode to latents of the right shapes; False where they are refused."""
    coder = small_coder()
    try:
        latents = coder.decode(bodies, quality, coder.shapes)
    except BitstreamError:
        return False
    assert {name: x.shape for name, x in latents.items()} == first_of(coder.shapes, len(bodies))
    assert np.abs(latents["base"]).max() <= BOUND
    assert coder.encode(latents, quality) == bodies  # every body has one spelling
    return True


def test_a_truncated_body_is_refused_at_every_byte() -> None:
    base, detail = bodies_of_a_face().values()
    assert len(detail) > 60
    assert decodes({0: base, 1: detail}, 2)
    assert not any(decodes({0: base, 1: detail[:size]}, 2) for size in range(len(detail)))
    assert not any(decodes({0: base[:size]}, 2) for size in range(len(base)))
    assert not decodes({0: base, 1: detail + b"\0"}, 2)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_damage_gives_latents_or_a_bitstream_error(changes: list[tuple[int, int]]) -> None:
    bodies = [bytearray(body) for body in bodies_of_a_face().values()]
    for position, value in changes:
        body = bodies[position % 2]
        body[position // 2 % len(body)] = value
    for quality in range(QUALITIES):
        decodes({layer: bytes(body) for layer, body in enumerate(bodies)}, quality)


@given(st.lists(st.binary(max_size=120), min_size=1, max_size=2), st.integers(0, QUALITIES - 1))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_latents_or_a_bitstream_error(bodies: list[bytes], quality: int) -> None:
    decodes(dict(enumerate(bodies)), quality)


def test_arrays_bring_it_back(tmp_path: Path) -> None:
    coder = small_coder()
    np.savez(tmp_path / "tables.npz", **coder.to_arrays())
    with np.load(tmp_path / "tables.npz", allow_pickle=False) as archive:
        again = coder_class(HSC).from_arrays(dict(archive))
    assert again.fingerprint == coder.fingerprint
    latents = random_latents(6)
    assert again.encode(latents, 1) == coder.encode(latents, 1)


def test_codecs_are_told_apart() -> None:
    with pytest.raises(ModelError, match="'sizes' of shape"):
        coder_class(HYPERPRIOR).from_arrays(small_coder().to_arrays())
    with pytest.raises(ModelError, match=r"unknown codec 77: this version knows 1, 2, 3, .*update"):
        coder_class(77)


CHANGES: dict[str, tuple[str, Change]] = {
    "a base frequency": ("base/frequencies", partial(moved_slot, number=3)),
    "a symbol frequency": ("symbols/frequencies", partial(moved_slot, number=3)),
    "a weight from the base": ("side/0/weight", raised(3, 1, 0, 2)),
    "the bound of the base": ("side/bound", raised(0)),
    "a weight of the first slice": ("slice0/0/weight", raised(0, 0, 0, 0)),
    "a bias of one quality": ("slice1/1/bias", raised(2, 1)),
    "a weight of an earlier slice": ("slice2/0/weight", raised(0, SIDE + 3, 1, 1)),
    "a shift": ("slice2/1/settings", raised(0)),
    "the side of the base": ("sizes", raised(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_covers_every_number(name: str) -> None:
    key, change = CHANGES[name]
    arrays = small_coder().to_arrays()
    changed = HscCoder.from_arrays(arrays | {key: change(arrays[key])})
    assert changed.fingerprint[:4] != small_coder().fingerprint[:4]


def test_the_fingerprint_covers_the_magnitudes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(small_coder()).fingerprint
    monkeypatch.setattr("cdvision.models.faces.receiver.hsc.MAGNITUDES", MAGNITUDES[:-1])
    assert replace(small_coder()).fingerprint != before


def with_slices(change: Callable[[list[IntegerNetwork]], object]) -> Callable[[], HscCoder]:
    def build() -> HscCoder:
        slices = list(small_coder().slices)
        change(slices)
        return replace(small_coder(), slices=tuple(slices))

    return build


def exchanged(**parts: object) -> Callable[[], HscCoder]:
    return lambda: replace(small_coder(), **parts)


def lower_bound(slices: list[IntegerNetwork]) -> None:
    slices[1] = replace(slices[1], bound=126)


PRIOR = np.full((QUALITIES * BASE, 2 * BOUND + 1), 1 / (2 * BOUND + 1))
MISFITS: dict[str, tuple[str, Callable[[], HscCoder]]] = {
    "too few base tables": ("base tables", exchanged(qualities=QUALITIES + 1)),
    "no quality": ("base tables", exchanged(qualities=0)),
    "base tables with an escape": (
        "without escapes",
        exchanged(base_tables=tables_from_probabilities(PRIOR * 0.9, -BOUND)),
    ),
    "base tables below the bound": (
        "without escapes",
        exchanged(base_tables=tables_from_probabilities(PRIOR, -BOUND - 1, escape=False)),
    ),
    "too few symbol tables": ("indices", exchanged(symbol_tables=gaussian_tables([0.1, 1.0]))),
    "no slice": ("1 to 32 slices", exchanged(slices=())),
    "slices exchanged": ("input channels", with_slices(list.reverse)),
    "a slice left out": ("input channels", with_slices(lambda slices: slices.pop(1))),
    "side information beyond the proof": (
        "a bound of at least 127",
        with_slices(lower_bound),
    ),
    "no cell": ("cells a side", exchanged(base_side=0)),
    "too many cells": ("cells a side", exchanged(base_side=40)),
}


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_a_model_error(name: str) -> None:
    message, build = MISFITS[name]
    with pytest.raises(ModelError, match=message):
        build()


@pytest.mark.parametrize("sizes", [None, [3], [3.0, 2.0, 3.0], [3, 2, 4], [3, 2, 0], [3, 2, 99]])
def test_damaged_sizes_are_a_model_error(sizes: list[float] | None) -> None:
    arrays: Arrays = small_coder().to_arrays()
    del arrays["sizes"]
    if sizes is not None:
        whole = all(isinstance(size, int) for size in sizes)
        arrays["sizes"] = np.array(sizes, np.int32 if whole else np.float64)
    with pytest.raises(ModelError):
        HscCoder.from_arrays(arrays)


@pytest.mark.parametrize("key", small_coder().to_arrays())
def test_a_missing_or_spoiled_array_is_a_model_error(key: str) -> None:
    arrays: Arrays = small_coder().to_arrays()
    for value in [arrays[key].astype(object), arrays[key].astype(np.float32), arrays[key][:0]]:
        with pytest.raises(ModelError):
            HscCoder.from_arrays(arrays | {key: value})
    with pytest.raises(ModelError):
        HscCoder.from_arrays({k: v for k, v in arrays.items() if k != key})
    with pytest.raises(ModelError, match="unknown arrays"):
        HscCoder.from_arrays(arrays | {"more": arrays[key]})
