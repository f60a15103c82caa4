"""The one contract of coders, shown on every kind: layers in order, and no more than is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from small_coders import (
    BOUND,
    CHANNELS,
    HYPER_CHANNELS,
    map_shapes,
    random_latents,
    same_latents,
    small_checkerboard,
    small_hyperprior,
)

from cdvision.entropy.coder import Coder, Latents, LayerSpec, Shapes, symbol_range
from cdvision.entropy.layered_coder import Code, LayeredCoder
from cdvision.entropy.tables import CodingError, gaussian_tables, tables_from_probabilities
from cdvision.errors import BitstreamError, ModelError
from cdvision.models.faces.receiver.style_layers import StyleLayersCoder
from cdvision.models.small.receiver.coder import DescribedMapCoder, DescriptorCoder

MOST = 2**20 - 1
LEVELS = (0.11, 1.0, 4.0, 16.0)


@dataclass(frozen=True, eq=False)
class DiamondCoder(LayeredCoder):
    """Four layers with numbers of their own: two need the first, the last needs one of them.

    ``far`` needs ``left`` and so, through it, ``root``; never ``right``.
    """

    layers: ClassVar[tuple[LayerSpec, ...]] = (
        LayerSpec(7, ("root",)),
        LayerSpec(2, ("left",), needs=(7,)),
        LayerSpec(5, ("right",), needs=(7,)),
        LayerSpec(3, ("far",), needs=(2,)),
    )
    needed: ClassVar[dict[str, str]] = {"left": "root", "right": "root", "far": "left"}
    qualities = 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.latent_layers, (30,))

    def ranges(self) -> dict[str, tuple[int, int]]:
        return dict.fromkeys(self.latent_layers, symbol_range(gaussian_tables(LEVELS)))

    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        name = self._name(layer)
        index = np.full(30, 2, np.uint16)
        if name in self.needed:  # the wrong neighbour, or none, gives other tables
            index = (1 + np.abs(known[self.needed[name]]) % 3).astype(np.uint16)
        code(..., index, gaussian_tables(LEVELS))

    def canonical_parts(self) -> list[bytes]:
        return [b"diamond"]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> DiamondCoder:
        return cls()


class Case(NamedTuple):
    """A coder, latents that it takes, and the range of each of them."""

    coder: Coder
    latents: Latents
    ranges: dict[str, tuple[int, int]]

    @property
    def shapes(self) -> Shapes:
        return {name: array.shape for name, array in self.latents.items()}


def descriptor() -> DescriptorCoder:
    prior = np.random.default_rng(2).dirichlet(np.ones(9), 3 * 6)
    return DescriptorCoder(tables_from_probabilities(prior, -3, escape=False), 3)


def style() -> StyleLayersCoder:
    fixed = tuple(np.full((1, *shape), 2, np.uint16) for shape in ((2, 5), (1, 4), (3, 3)))
    return StyleLayersCoder(gaussian_tables(LEVELS), fixed)


def drawn(shapes: Shapes, most: int = 3) -> Latents:
    rng = np.random.default_rng(4)
    return {n: rng.integers(-most, most + 1, s).astype(np.int32) for n, s in shapes.items()}


MAP_RANGES = {"symbols": (-MOST, MOST), "hyper": (-BOUND, BOUND)}
CASES = {
    "hyperprior": Case(small_hyperprior(), random_latents(1, 7, 5), MAP_RANGES),
    "checkerboard": Case(small_checkerboard(), random_latents(1, 7, 5), MAP_RANGES),
    "described": Case(
        DescribedMapCoder(descriptor(), small_hyperprior()),
        drawn({"descriptor": (6,)}) | random_latents(1, 7, 5),
        {"descriptor": (-3, 5), **MAP_RANGES},
    ),
    "style": Case(
        style(),
        drawn(style().shapes),
        dict.fromkeys(("basic", "middle", "enhanced"), (-MOST, MOST)),
    ),
    "diamond": Case(
        DiamondCoder(),
        drawn(DiamondCoder().shapes),
        dict.fromkeys(("root", "left", "right", "far"), (-MOST, MOST)),
    ),
}
every_coder = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note which layers of a diamond are decoded."""
    decode, noted = DiamondCoder.decode_layer, list[int]()

    def counted(coder: DiamondCoder, layer: int, *rest: Any) -> Latents:
        noted.append(layer)
        return decode(coder, layer, *rest)

    monkeypatch.setattr(DiamondCoder, "decode_layer", counted)
    return noted


# --- what every coder promises


@every_coder
def test_what_is_received_is_what_is_decoded(case: Case) -> None:
    coder, quality = case.coder, case.coder.qualities - 1
    bodies = coder.encode(case.latents, quality)
    received = coder.received(case.latents, quality)
    assert list(bodies) == [layer.id for layer in coder.layers]
    assert list(received) == [name for layer in coder.layers for name in layer.latents]
    assert same_latents(coder.decode(bodies, quality, case.shapes), received)
    assert coder.encode(received, quality) == bodies


@every_coder
def test_each_layer_alone_gives_what_it_gives_among_all(case: Case) -> None:
    """Encoded, received, counted and decoded layer by layer, known what the layer needs."""
    coder, known = case.coder, Latents()
    bodies, bits = coder.encode(case.latents, 0), coder.estimate_bits(case.latents, 0)
    assert list(bits) == list(bodies)
    for layer in coder.layers:
        needed = coder.layers_in_order([layer.id])
        before = {n: v for n, v in known.items() if coder.latent_layers[n] in needed}
        own = {name: case.latents[name] for name in layer.latents}
        body, received = coder.encode_layer(layer.id, own, 0, before)
        assert body == bodies[layer.id]
        assert same_latents(coder.received_layer(layer.id, own, 0, before), received)
        assert same_latents(coder.decode_layer(layer.id, body, 0, case.shapes, before), received)
        assert coder.estimate_layer_bits(layer.id, own, 0, before) == bits[layer.id]
        assert bits[layer.id] / 8 * 0.99 <= len(body) <= bits[layer.id] / 8 * 1.01 + 28
        known |= received


@every_coder
def test_ranges_are_those_of_the_tables(case: Case) -> None:
    assert case.coder.ranges() == case.ranges


@every_coder
def test_unknown_layers_are_ignored(case: Case) -> None:
    bodies = case.coder.encode(case.latents, 0)
    more = {99: b"of a later version", **bodies, 98: b""}
    found = case.coder.decode(more, 0, case.shapes)
    assert same_latents(found, case.coder.decode(bodies, 0, case.shapes))
    expected = " or ".join(f"layer {layer.id}" for layer in case.coder.layers)
    for strange, said in (({}, "none"), ({99: b"", 98: b""}, "98, 99")):
        with pytest.raises(BitstreamError) as caught:
            case.coder.decode(strange, 0, case.shapes)
        assert f"layer: expected {expected}, found {said}: the stream was cut" in str(caught.value)


@every_coder
def test_latents_of_no_layer_are_refused(case: Case) -> None:
    coder = case.coder
    for latents, found in (({}, "none"), ({"other": np.zeros(3, np.int32)}, "other")):
        for call in (coder.encode, coder.received, coder.estimate_bits):
            with pytest.raises(CodingError, match=rf"latents: expected .*, found {found}$"):
                call(latents, 0)


@every_coder
@pytest.mark.parametrize("quality", [-1, 99])
def test_a_quality_without_tables_is_refused_everywhere(case: Case, quality: int) -> None:
    coder, bodies = case.coder, case.coder.encode(case.latents, 0)
    for call in (
        lambda: coder.encode(case.latents, quality),
        lambda: coder.received(case.latents, quality),
        lambda: coder.estimate_bits(case.latents, quality),
        lambda: coder.decode(bodies, quality, case.shapes),
    ):
        with pytest.raises(CodingError, match=rf"quality: expected 0 to \d+, found {quality}$"):
            call()


# --- shapes


@every_coder
def test_the_shapes_of_a_card_are_compared(case: Case) -> None:
    case.coder.check_shapes(case.shapes)
    for name, shape in case.shapes.items():
        wrong = [(shape[0] + 1, *shape[1:]), (*shape, 1), shape[:-1], ()]
        if name != "symbols":  # whose height and width are the image's
            wrong.append((*shape[:-1], shape[-1] + 1))
        for other in wrong:
            with pytest.raises(ModelError, match=name) as caught:
                case.coder.check_shapes({**case.shapes, name: other})
            assert str(other) in str(caught.value)
        fewer = {other: shape for other, shape in case.shapes.items() if other != name}
        for shapes in (fewer, {**fewer, "other": shape}, {**case.shapes, "other": shape}):
            with pytest.raises(ModelError, match=rf"latents: expected .*{name}.*, found "):
                case.coder.check_shapes(shapes)


def test_hyper_latents_are_rounded_up() -> None:
    coder = small_hyperprior()
    for (height, width), cells in (((4, 8), (1, 2)), ((5, 9), (2, 3)), ((1, 3), (1, 1))):
        shapes = {"symbols": (CHANNELS, height, width), "hyper": (HYPER_CHANNELS, *cells)}
        assert map_shapes(height, width) == shapes
        coder.check_shapes(shapes)


# --- layers that need layers


@pytest.mark.parametrize(
    ("wanted", "order"),
    [
        ([7], [7]),
        ([2], [7, 2]),
        ([5], [7, 5]),
        ([3], [7, 2, 3]),
        ([3, 5], [7, 2, 5, 3]),
        ([3, 5, 2, 7], [7, 2, 5, 3]),
        ([99, 5], [7, 5]),
    ],
)
def test_layers_come_behind_what_they_need(
    wanted: list[int], order: list[int], decoded: list[int]
) -> None:
    coder, (_, latents, _) = DiamondCoder(), CASES["diamond"]
    bodies = coder.encode(latents, 0)
    assert coder.layers_in_order(wanted) == coder.layers_in_order(set(wanted)) == order
    found = coder.decode(bodies, 0, coder.shapes, layers=wanted)
    assert decoded == order, "no more is decoded than is asked for, and nothing twice"
    names = [name for name, layer in coder.latent_layers.items() if layer in order]
    whole = coder.decode(bodies, 0, coder.shapes)
    assert same_latents(found, {name: whole[name] for name in whole if name in names})


@pytest.mark.parametrize(
    ("arrived", "wanted", "missing", "found"),
    [
        ([2, 5, 3], None, 7, "2, 3, 5"),
        ([7, 5, 3], None, 2, "3, 5, 7"),
        ([7, 5], [3], 2, "5, 7"),
        ([7, 2], [3], 3, "2, 7"),
        ([], [5], 7, "none"),
    ],
)
def test_a_layer_that_has_not_arrived_is_named(
    arrived: list[int], wanted: list[int] | None, missing: int, found: str
) -> None:
    coder, (_, latents, _) = DiamondCoder(), CASES["diamond"]
    whole = coder.encode(latents, 0)
    with pytest.raises(BitstreamError) as caught:
        coder.decode({layer: whole[layer] for layer in arrived}, 0, coder.shapes, layers=wanted)
    said = f"expected layer {missing}, which this question is answered from, found {found}: "
    assert said in str(caught.value)
    assert caught.value.field == "layer"


def test_only_the_layers_whose_latents_are_there_are_encoded() -> None:
    coder, (_, latents, _) = DiamondCoder(), CASES["diamond"]
    whole, bits = coder.encode(latents, 0), coder.estimate_bits(latents, 0)
    some = {name: latents[name] for name in ("left", "far", "root")}
    assert coder.encode(some, 0) == {layer: whole[layer] for layer in (7, 2, 3)}
    assert coder.estimate_bits(some, 0) == {layer: bits[layer] for layer in (7, 2, 3)}
    assert list(coder.received(some, 0)) == ["root", "left", "far"]


def test_a_layer_of_two_arrays_needs_both() -> None:
    coder, latents, _ = CASES["described"]
    half = {"descriptor": latents["descriptor"], "symbols": latents["symbols"]}
    assert coder.encode(half, 0) == {0: coder.encode(latents, 0)[0]}
    with pytest.raises(CodingError, match="expected symbols, hyper, found symbols"):
        small_hyperprior().encode({"symbols": latents["symbols"]}, 0)


def test_the_estimate_of_fixed_tables_is_their_costs() -> None:
    """Symbols under one table: the sum of the table's costs, layer by layer."""
    coder, latents, _ = CASES["style"]
    for (name, array), bits in zip(
        latents.items(), coder.estimate_bits(latents, 0).values(), strict=True
    ):
        costs = gaussian_tables(LEVELS).costs[2, array + 128]
        assert bits == pytest.approx(float(costs.sum())), name


def test_the_fingerprint_is_of_the_canonical_parts() -> None:
    """SHA-256 over each part behind its length, so that bytes cannot move between parts."""
    one, two = (
        type("Named", (DiamondCoder,), {"canonical_parts": lambda _, parts=parts: parts})()
        for parts in ([b"ab", b"c"], [b"a", b"bc"])
    )
    assert one.fingerprint != two.fingerprint
