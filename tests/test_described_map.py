"""The codec of described maps: two layers that do not need each other, to bytes and back."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coders import (
    BOUND,
    QUALITIES,
    map_shapes,
    moved_slot,
    same_latents,
    small_hyperprior,
)

from cdvision.entropy.coder import Latents, Shapes
from cdvision.entropy.tables import CodingError, gaussian_tables, tables_from_probabilities
from cdvision.errors import BitstreamError, ModelError
from cdvision.models.small.receiver.coder import (
    DESCRIPTOR_LAYER,
    MAP_LAYER,
    DescribedMapCoder,
    DescriptorCoder,
)

ELEMENTS, WIDTH = 9, 6
SHAPES: Shapes = {"descriptor": (ELEMENTS,), **map_shapes(7, 5)}


@cache
def small_descriptor() -> DescriptorCoder:
    prior = np.random.default_rng(2).dirichlet(np.ones(2 * WIDTH + 1), QUALITIES * ELEMENTS)
    return DescriptorCoder(tables_from_probabilities(prior, -WIDTH, escape=False), QUALITIES)


@cache
def small_described() -> DescribedMapCoder:
    return DescribedMapCoder(small_descriptor(), small_hyperprior())


def latents(seed: int) -> Latents:
    rng = np.random.default_rng(seed)
    most = {"descriptor": WIDTH, "symbols": 3, "hyper": BOUND}
    return {
        name: rng.integers(-most[name], most[name] + 1, shape).astype(np.int32)
        for name, shape in SHAPES.items()
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), quality=st.integers(0, QUALITIES - 1))
def test_both_layers_come_back_each_from_its_own_body(seed: int, quality: int) -> None:
    coder, sent = small_described(), latents(seed)
    kept, bodies = coder.received(sent, quality), coder.encode(sent, quality)
    assert list(bodies) == [DESCRIPTOR_LAYER, MAP_LAYER]
    first = coder.decode({DESCRIPTOR_LAYER: bodies[DESCRIPTOR_LAYER]}, quality, SHAPES)
    second = coder.decode({MAP_LAYER: bodies[MAP_LAYER]}, quality, SHAPES)
    assert same_latents(first | second, kept)
    np.testing.assert_array_equal(first["descriptor"], sent["descriptor"])
    np.testing.assert_array_equal(second["hyper"], sent["hyper"])
    size = sum(map(len, bodies.values()))
    assert 8 * size <= sum(coder.estimate_bits(sent, quality).values()) * 1.01 + 8 * 16


def test_what_is_not_there_is_not_written() -> None:
    coder, sent = small_described(), latents(1)
    alone = {"descriptor": sent["descriptor"]}
    assert coder.encode(alone, 0) == {DESCRIPTOR_LAYER: coder.encode(sent, 0)[DESCRIPTOR_LAYER]}
    assert same_latents(coder.received(alone, 0), alone)
    rest = {"symbols": sent["symbols"], "hyper": sent["hyper"]}
    assert coder.encode(rest, 0) == {MAP_LAYER: coder.encode(sent, 0)[MAP_LAYER]}
    apart = coder.estimate_bits(alone, 0) | coder.estimate_bits(rest, 0)
    assert apart == pytest.approx(coder.estimate_bits(sent, 0))
    with pytest.raises(CodingError, match="expected descriptor or symbols, hyper, found none"):
        coder.encode({}, 0)


def test_an_element_out_of_range_becomes_the_nearest() -> None:
    coder = small_descriptor()
    wild = {"descriptor": np.full(ELEMENTS, 100, np.int32)}
    kept = coder.received(wild, 1)
    assert (kept["descriptor"] == WIDTH).all()
    assert same_latents(coder.decode(coder.encode(wild, 1), 1, SHAPES), kept)


def test_wrong_shapes_and_bytes_are_refused() -> None:
    coder = small_described()
    with pytest.raises(CodingError, match=r"'descriptor': expected int32 of shape \(9,\)"):
        coder.encode({"descriptor": np.zeros(4, np.int32)}, 0)
    body = coder.encode(latents(3), 2)[DESCRIPTOR_LAYER]
    for damaged in (body + b"\1", body[:-2], b""):
        with pytest.raises(BitstreamError):
            coder.decode({DESCRIPTOR_LAYER: damaged}, 2, SHAPES)


def test_a_coder_is_rebuilt_from_its_arrays() -> None:
    coder = small_described()
    again = DescribedMapCoder.from_arrays(coder.to_arrays())
    assert again.fingerprint == coder.fingerprint
    assert again.encode(latents(5), 1) == coder.encode(latents(5), 1)


@pytest.mark.parametrize("name", ["descriptor/tables/frequencies", "map/hyper/frequencies"])
def test_the_fingerprint_covers_both_layers(name: str) -> None:
    arrays = small_described().to_arrays()
    changed = DescribedMapCoder.from_arrays({**arrays, name: moved_slot(arrays[name])})
    assert changed.fingerprint != small_described().fingerprint


def test_parts_that_do_not_fit_are_refused() -> None:
    tables = small_descriptor().tables
    with pytest.raises(ModelError, match="expected 5 x 1 to 4096 tables, found 27"):
        DescriptorCoder(tables, 5)
    with pytest.raises(ModelError, match="without escapes"):
        DescriptorCoder(gaussian_tables([0.11, 1.0, 4.0]), QUALITIES)
    with pytest.raises(ModelError, match="one number of qualities, found 9 and 3"):
        DescribedMapCoder(DescriptorCoder(tables, 9), small_hyperprior())
    arrays = small_described().to_arrays()
    del arrays["descriptor/sizes"]
    with pytest.raises(ModelError, match="int32 array 'sizes'"):
        DescribedMapCoder.from_arrays(arrays)
