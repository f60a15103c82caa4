"""The `sfic-style` codec: three layers to bytes and back, damage, exactness, its fingerprint."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_coders import first_of, same_latents

from cdvision.entropy.coder import Latents
from cdvision.entropy.integer_attention import IntegerBlock, exponent_table
from cdvision.entropy.integer_network import IntegerLayer
from cdvision.entropy.tables import CodingError, gaussian_tables
from cdvision.errors import BitstreamError, ModelError
from cdvision.models.faces.receiver.scale_transformer import ScaleTransformer
from cdvision.models.faces.receiver.style_layers import StyleLayersCoder

QUALITIES, WIDTH, LEVELS = 3, 8, 24
NAMES = ("basic", "middle", "enhanced")
SHAPES = ((3, 5), (2, 7), (4, 3))
NAMED = dict(zip(NAMES, SHAPES, strict=True))
OPTIONS = ("transformer", "tables")
SCALES = np.geomspace(0.11, 30.0, LEVELS)
Arrays = dict[str, NDArray[np.generic]]


def layer(
    rng: np.random.Generator, out: int, inputs: int, low: int, high: int, *,
    shift: int = 7, qualities: int = 1, middle: int = 0,
) -> IntegerLayer:  # fmt: skip
    weight = rng.integers(-60, 61, (out, inputs, 1, 1)).astype(np.int8)
    bias = middle + rng.integers(-2000, 2000, (qualities, out))
    return IntegerLayer(weight, bias.astype(np.int32), shift, low, high)


@cache
def small_transformer() -> ScaleTransformer:
    """Return a random network whose indices reach most tables, the skipped one too."""
    rng = np.random.default_rng(8)
    rows = [row for shape in SHAPES for row in [shape[1]] * shape[0]]
    first = SHAPES[0][0]
    known = rows[: len(rows) - SHAPES[-1][0]]

    def block() -> IntegerBlock:
        return IntegerBlock(
            layer(rng, 3 * WIDTH, WIDTH, -127, 127), layer(rng, WIDTH, WIDTH, -255, 255),
            layer(rng, 12, WIDTH, 0, 127), layer(rng, WIDTH, 12, -255, 255),
            heads=2, shift=6, exponents=exponent_table(),
        )  # fmt: skip

    return ScaleTransformer(
        rows=tuple(count for count, _ in SHAPES),
        embed=tuple(layer(rng, WIDTH, n, -255, 255, shift=3, qualities=QUALITIES) for n in known),
        awaited=rng.integers(-99, 99, (QUALITIES, len(rows) - first, WIDTH)).astype(np.int16),
        blocks=(block(), block()),
        tell=tuple(
            layer(rng, n, WIDTH, 0, LEVELS - 1, shift=11, qualities=QUALITIES, middle=20_000)
            for n in rows[first:]
        ),
        bound=15,
    )


@cache
def small_coder(option: str = "transformer") -> StyleLayersCoder:
    rng = np.random.default_rng(12)
    shapes = SHAPES[:1] if option == "transformer" else SHAPES
    return StyleLayersCoder(
        tables=gaussian_tables(SCALES),
        fixed=tuple(
            rng.integers(0, LEVELS, (QUALITIES, *shape)).astype(np.uint16) for shape in shapes
        ),
        transformer=small_transformer() if option == "transformer" else None,
    )


def random_latents(seed: int, spread: float = 3.0) -> Latents:
    rng = np.random.default_rng(seed)
    heavy = {name: rng.standard_cauchy(shape) * spread for name, shape in NAMED.items()}
    return {
        name: np.clip(np.rint(x), 1 - 2**20, 2**20 - 1).astype(np.int32)
        for name, x in heavy.items()
    }


def constant_latents(value: int) -> Latents:
    return {name: np.full(shape, value, np.int32) for name, shape in NAMED.items()}


def indices(coder: StyleLayersCoder, latents: Latents, quality: int) -> list[NDArray[np.integer]]:
    """Table of every symbol, layer by layer."""
    kept = coder.received(latents, quality)
    return [coder._index(layer, first_of(kept, layer), quality) for layer in range(len(kept))]


@pytest.mark.parametrize("option", OPTIONS)
@given(
    seed=st.integers(0, 2**32 - 1),
    quality=st.integers(0, QUALITIES - 1),
    layers=st.integers(1, 3),
    spread=st.sampled_from([0.0, 0.3, 3.0, 1e3, 1e6]),
)
@settings(max_examples=100, deadline=None)
def test_round_trip(option: str, seed: int, quality: int, layers: int, spread: float) -> None:
    coder, latents = small_coder(option), first_of(random_latents(seed, spread), layers)
    bodies, kept = coder.encode(latents, quality), coder.received(latents, quality)
    assert same_latents(coder.decode(bodies, quality, NAMED), kept)
    assert same_latents(coder.received(kept, quality), kept)
    assert coder.encode(kept, quality) == bodies


@pytest.mark.parametrize("option", OPTIONS)
def test_every_prefix_of_layers_is_a_stream(option: str) -> None:
    coder, latents = small_coder(option), random_latents(4)
    bodies, kept = coder.encode(latents, 1), coder.received(latents, 1)
    assert list(bodies) == [0, 1, 2]
    for layers in range(1, 4):
        prefix = first_of(bodies, layers)
        assert same_latents(coder.decode(prefix, 1, NAMED), first_of(kept, layers))
        assert coder.encode(first_of(latents, layers), 1) == prefix


@pytest.mark.parametrize("option", OPTIONS)
def test_symbols_of_table_0_are_skipped_and_only_those(option: str) -> None:
    coder, seen = small_coder(option), set()
    for seed in range(40):
        latents = random_latents(seed, 60.0)
        quality = seed % QUALITIES
        kept, index = coder.received(latents, quality), indices(coder, latents, quality)
        for name, table in zip(NAMES, index, strict=True):
            assert np.array_equal(kept[name], np.where(table > 0, latents[name], 0))
            seen |= set(table.ravel().tolist())
    assert 0 in seen
    assert len(seen) > LEVELS / 2


def test_tables_know_the_layers_before_and_nothing_else() -> None:
    coder, latents = small_coder(), random_latents(3)
    before, heard = indices(coder, latents, 1), set()
    for changed_layer, shape in enumerate(SHAPES):
        for row in range(shape[0]):
            changed = {name: x.copy() for name, x in latents.items()}
            changed[NAMES[changed_layer]][row] *= -1
            changed[NAMES[changed_layer]][row] += 15
            after = indices(coder, changed, 1)
            for position in range(3):
                if not np.array_equal(before[position], after[position]):
                    assert position > changed_layer
                    heard.add((changed_layer, row, position))
    rows = [(layer, row) for layer, (count, _) in enumerate(SHAPES) for row in range(count)]
    assert heard == {(at, row, to) for at, row in rows for to in range(at + 1, 3)}


def test_symbols_beyond_the_bound_look_like_the_bound() -> None:
    coder, latents = small_coder(), random_latents(5)
    latents["basic"][:] = 15
    before = indices(coder, latents, 0)
    latents["basic"][:] = 2**20 - 1
    assert all(
        np.array_equal(a, b) for a, b in zip(before, indices(coder, latents, 0), strict=True)
    )


@pytest.mark.parametrize("option", OPTIONS)
def test_the_largest_symbols_and_the_first_too_large_ones(option: str) -> None:
    coder = small_coder(option)
    for value in (2**20 - 1, 1 - 2**20):
        latents = constant_latents(value)
        kept = coder.received(latents, 1)
        assert any((x == value).any() for x in kept.values())
        assert same_latents(coder.decode(coder.encode(latents, 1), 1, NAMED), kept)
    for value in (2**20, -(2**20), 2**31 - 1, -(2**31)):
        with pytest.raises(CodingError, match="2\\^20"):
            coder.encode(constant_latents(value), 1)


@pytest.mark.parametrize("option", OPTIONS)
@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
@settings(max_examples=25, deadline=None)
def test_the_estimate_is_what_is_written(option: str, seed: int, quality: int) -> None:
    """Symbols drawn from the very scales that code them, layer by layer."""
    coder, latents = small_coder(option), random_latents(seed)
    rng = np.random.default_rng(seed)
    for position in range(3):  # each layer moves the scales of those behind it
        scale = SCALES[indices(coder, latents, quality)[position]]
        latents[NAMES[position]] = np.rint(rng.normal(size=scale.shape) * scale).astype(np.int32)
    ideal = coder.estimate_bits(latents, quality)
    for layer, body in coder.encode(latents, quality).items():
        bits = ideal[layer]
        assert bits / 8 * 0.99 <= len(body) <= bits / 8 * 1.01 + 2


def decodes(coder: StyleLayersCoder, bodies: dict[int, bytes], quality: int) -> bool:
    """Whether bodies decode to latents of the right shapes; False where they are refused."""
    try:
        latents = coder.decode(bodies, quality, NAMED)
    except BitstreamError:
        return False
    assert {name: x.shape for name, x in latents.items()} == first_of(NAMED, len(bodies))
    return True


@pytest.mark.parametrize("option", OPTIONS)
def test_a_truncated_body_is_refused_or_another_face(option: str) -> None:
    """A range coder has no redundancy: a prefix may be what other symbols encode to, exactly.

    Nothing else is accepted; that bytes are missing is for the stream's checksum to tell.
    """
    coder, accepted, tried = small_coder(option), 0, 0
    bodies = coder.encode(random_latents(5, 30.0), 2)
    for position, body in bodies.items():
        assert len(body) > 5
        for size in range(len(body)):
            cut = first_of(bodies, position) | {position: body[:size]}
            assert position == 0 or decodes(coder, first_of(cut, position), 2)
            tried += 1
            if decodes(coder, cut, 2):
                accepted += 1
                assert coder.encode(coder.decode(cut, 2, NAMED), 2) == cut
            else:
                assert not decodes(coder, bodies | cut, 2)
    assert accepted < tried / 3


@pytest.mark.parametrize("option", OPTIONS)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 10**6), st.integers(0, 255)),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=100, deadline=None)
def test_damage_gives_latents_or_a_bitstream_error(
    option: str, changes: list[tuple[int, int, int]]
) -> None:
    coder = small_coder(option)
    bodies = [bytearray(body) for body in coder.encode(random_latents(5, 30.0), 2).values()]
    for which, position, value in changes:
        bodies[which][position % len(bodies[which])] = value
    for quality in range(QUALITIES):
        decodes(coder, {layer: bytes(body) for layer, body in enumerate(bodies)}, quality)


@pytest.mark.parametrize("option", OPTIONS)
@given(st.lists(st.binary(max_size=60), max_size=3))
@settings(max_examples=100, deadline=None)
def test_any_bytes_give_latents_or_a_bitstream_error(option: str, bodies: list[bytes]) -> None:
    decodes(small_coder(option), dict(enumerate(bodies)), 0)


@pytest.mark.parametrize("option", OPTIONS)
def test_arrays_bring_it_back(option: str, tmp_path: Path) -> None:
    coder = small_coder(option)
    np.savez(tmp_path / "tables.npz", **coder.to_arrays())
    with np.load(tmp_path / "tables.npz", allow_pickle=False) as archive:
        again = StyleLayersCoder.from_arrays(dict(archive))
    assert again.fingerprint == coder.fingerprint
    assert again.shapes == coder.shapes == NAMED
    assert again.encode(random_latents(6), 1) == coder.encode(random_latents(6), 1)


THREADED = """
import hashlib, sys
import numpy as np
from cdvision.models.faces.receiver.style_layers import StyleLayersCoder
with np.load(sys.argv[1]) as archive:
    coder = StyleLayersCoder.from_arrays(dict(archive))
rng, digest = np.random.default_rng(0), hashlib.sha256()
for quality in range(coder.qualities):
    latents = {n: rng.integers(-9, 10, s).astype(np.int32) for n, s in coder.shapes.items()}
    digest.update(b"".join(coder.encode(latents, quality).values()))
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


@pytest.mark.parametrize("option", OPTIONS)
def test_the_fingerprint_covers_every_number(option: str) -> None:
    """Whatever number of the arrays changes: another fingerprint, or no coder at all."""
    arrays = small_coder(option).to_arrays()
    rng, covered = np.random.default_rng(0), set()
    for key, array in arrays.items():
        for place in rng.choice(array.size, min(array.size, 4), replace=False):
            changed = array.copy()
            changed.flat[place] = int(array.flat[place]) + (1 if array.flat[place] < 100 else -1)
            try:
                other = StyleLayersCoder.from_arrays(arrays | {key: changed})
            except ModelError:
                continue
            assert other.fingerprint[:4] != small_coder(option).fingerprint[:4], key
            covered.add(key)
    refused = set(arrays) - covered  # counts, and tables whose frequencies must add up
    assert all(key.startswith(("layers", "tables/", "transformer/rows")) for key in refused)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_missing_or_spoiled_array_is_a_model_error(option: str) -> None:
    arrays: Arrays = small_coder(option).to_arrays()
    for key in arrays:
        spoiled = [arrays[key].astype(object), arrays[key].astype(np.float32), arrays[key][:0]]
        for value in spoiled:
            with pytest.raises(ModelError):
                StyleLayersCoder.from_arrays(arrays | {key: value})
        with pytest.raises(ModelError):
            StyleLayersCoder.from_arrays({k: v for k, v in arrays.items() if k != key})


@pytest.mark.parametrize(
    "key", ["other", "transformer/other", "transformer/tell/9/weight", "fixed/7"]
)
def test_an_unknown_array_is_a_model_error(key: str) -> None:
    arrays = small_coder().to_arrays()
    with pytest.raises(ModelError, match=r"unknown|gap"):
        StyleLayersCoder.from_arrays(arrays | {key: arrays["fixed/0"]})


def fixed(*shapes: tuple[int, ...], kind: type[np.integer] = np.uint16) -> dict[str, object]:
    return {"fixed": tuple(np.ones(shape, kind) for shape in shapes)}


def network(**changes: object) -> dict[str, object]:
    return {"transformer": lambda: replace(small_transformer(), **changes)}


def other_layer(name: str, row: int, **changes: object) -> dict[str, object]:
    layers = list(getattr(small_transformer(), name))
    layers[row] = replace(layers[row], **changes)
    return network(**{name: tuple(layers)})


def weights(*shape: int) -> NDArray[np.int8]:
    return np.ones((*shape, 1, 1), np.int8)


def biases(rows: int, value: int = 0) -> NDArray[np.int32]:
    return np.full((QUALITIES, rows), value, np.int32)


AWAITED, FIRST, LIMIT = small_transformer().awaited, (QUALITIES, *SHAPES[0]), 2**24 - 1
MISFITS: dict[str, tuple[str, dict[str, object]]] = {
    "no fixed tables": ("fixed tables", fixed()),
    "fixed tables of other integers": ("fixed tables", fixed((QUALITIES, 3, 5), kind=np.int64)),
    "fixed tables without qualities": ("fixed tables", fixed((3, 5))),
    "fixed tables of no symbols": ("same qualities", fixed((QUALITIES, 0, 5))),
    "other qualities": ("transformer expects", fixed((QUALITIES + 1, 3, 5))),
    "another first layer": ("transformer expects", fixed((QUALITIES, 3, 4))),
    "two layers of fixed tables": ("transformer expects", fixed(FIRST, (QUALITIES, 2, 7))),
    "an index without a table": ("below 24", {"fixed": (np.full(FIRST, 24, np.uint16),)}),
    "an index that the network may give": ("below 24", other_layer("tell", 0, high=24)),
    "two layers": (
        "expected three layers", {"transformer": None} | fixed(FIRST, (QUALITIES, 2, 7)),
    ),
    "one layer": ("two layers", network(rows=(9,))),
    "rows that are none": ("two layers", network(rows=(3, 0, 6))),
    "too many rows": ("64 rows", network(rows=(3, 2, 60))),
    "a bound of none": ("bounded", network(bound=0)),
    "a large bound": ("bounded", network(bound=128)),
    "no blocks": ("blocks", network(blocks=())),
    "too few embeddings": ("embed: expected 5", network(embed=small_transformer().embed[:4])),
    "too few tellers": ("tell: expected 6", network(tell=small_transformer().tell[:5])),
    "too few awaited tokens": ("awaited: expected 6", network(awaited=AWAITED[:, :5])),
    "awaited tokens of other integers": ("int16", network(awaited=AWAITED.astype(np.int32))),
    "awaited tokens beyond the bound": ("within 255", network(awaited=np.full_like(AWAITED, 256))),
    "awaited tokens of another width": ("blocks of 7", network(awaited=AWAITED[:, :, :7])),
    "a wide embedding": (
        "embed of row 1", other_layer("embed", 1, weight=weights(9, 5), bias=biases(9)),
    ),
    "tokens beyond the bound": ("embed of row 0", other_layer("embed", 0, low=-256)),
    "sums of embeddings": ("sums may reach", other_layer("embed", 2, bias=biases(WIDTH, LIMIT))),
    "sums of tellers": ("sums may reach", other_layer("tell", 1, bias=biases(7, LIMIT))),
    "negative indices": ("tell of row 3", other_layer("tell", 3, low=-1)),
    "indices beyond a byte": ("tell of row 3", other_layer("tell", 3, high=256)),
    "rows of unequal symbols": (
        "layer 2: expected rows of equally many",
        other_layer("tell", 4, weight=weights(4, WIDTH), bias=biases(4)),
    ),
    "other symbols embedded than told": (
        "layer 1: expected rows of equally many",
        other_layer("embed", 4, weight=weights(WIDTH, 6)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISFITS)
def test_parts_that_do_not_fit_are_a_model_error(name: str) -> None:
    message, changes = MISFITS[name]
    with pytest.raises(ModelError, match=message):
        replace(small_coder(), **{k: v() if callable(v) else v for k, v in changes.items()})


def test_decoding_takes_well_under_3_milliseconds() -> None:
    """The sizes of faces of 128 pixels, all three layers, transformer included."""
    import torch

    from cdvision.models.faces.scale_transformer import (
        IntegerScaleTransformer,
        build_scale_transformer,
    )

    torch.manual_seed(0)
    shapes = ((4, 64), (4, 64), (4, 32))
    transformer = build_scale_transformer(IntegerScaleTransformer(shapes))
    first = np.full((8, 4, 64), 20, np.uint16)
    coder = StyleLayersCoder(gaussian_tables(np.geomspace(0.11, 64, 64)), (first,), transformer)
    rng = np.random.default_rng(0)
    latents = {n: rng.integers(-2, 3, s).astype(np.int32) for n, s in coder.shapes.items()}
    bodies = coder.encode(latents, 3)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        coder.decode(bodies, 3, coder.shapes)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3e-3
