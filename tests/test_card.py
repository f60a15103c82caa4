"""Cards: shapes of latents by hand, layers of tails and senders, and every wrong field by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import cdvision
from cdvision.errors import ModelError
from cdvision.package.card import LatentSpec, ModelCard, SenderGraph, SenderSpec
from cdvision.package.card_reader import read_card

SMALL = Path(cdvision.__file__).parent / "models" / "small" / "packages" / "small"
HSC = Path(__file__).parent / "packages" / "test-hsc"
VALUES = json.loads((SMALL / "model.json").read_text(encoding="utf-8"))
Change = Callable[[dict[str, Any]], object]


def card_with(folder: Path, change: Change) -> ModelCard:
    """Read the card of `small` with a change."""
    values = deepcopy(VALUES)
    change(values)
    (folder / "model.json").write_text(json.dumps(values), encoding="utf-8")
    return read_card(folder)


def put(value: object, *keys: str) -> Change:
    """Return the change that puts a value in a place."""

    def change(card: dict[str, Any]) -> None:
        for key in keys[:-1]:
            card = card[key]
        card[keys[-1]] = value

    return change


# --- shapes


@pytest.mark.parametrize(
    ("spec", "size", "shape"),
    [
        (LatentSpec(0, 5, stride=16), (64, 32), (5, 2, 4)),  # size is (width, height)
        (LatentSpec(0, 5, stride=16), (65, 33), (5, 3, 5)),  # rounded up
        (LatentSpec(0, 5, stride=16), (63, 31), (5, 2, 4)),
        (LatentSpec(0, 24, stride=64), (416, 320), (24, 5, 7)),
        (LatentSpec(0, 1, stride=64), (1, 1), (1, 1, 1)),
        (LatentSpec(0, 512), (416, 320), (512,)),
        (LatentSpec(0, 8, sides=(4, 4)), (416, 320), (8, 4, 4)),
        (LatentSpec(0, 3, sides=(7,)), (1, 1), (3, 7)),
    ],
)
def test_shapes_by_hand(spec: LatentSpec, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    assert spec.shape(size) == shape


def test_the_shapes_of_a_model() -> None:
    shapes = read_card(SMALL).latent_shapes((416, 224))
    assert shapes == {"descriptor": (512,), "symbols": (128, 14, 26), "hyper": (24, 4, 7)}


# --- layers


def test_latents_of_layers() -> None:
    card = read_card(SMALL)
    assert card.latents_of([1]) == ["symbols", "hyper"]
    assert card.latents_of([1, 0]) == ["descriptor", "symbols", "hyper"]
    assert card.latents_of([]) == card.latents_of([9]) == []


def test_tails_say_which_layers_they_are_answered_from() -> None:
    small, faces = read_card(SMALL).tails, read_card(HSC).tails
    assert (small["mobilenet_v2"].layers, small["nanodet_plus_m"].layers) == ((0,), (1,))
    assert {(tail.layers, tail.least_layers) for tail in faces.values()} == {((0, 1), 1)}


def test_a_sender_costs_what_its_graphs_cost(tmp_path: Path) -> None:
    sender = SenderSpec(
        {"a": SenderGraph((0,), multiply_adds=5), "b": SenderGraph((1,), "window", 7)}
    )
    assert sender.multiply_adds == 12
    light = {"graphs": {"light": {"layers": [0, 1]}}, "milliseconds": 3.5, "measured_on": "a Pi"}
    card = card_with(tmp_path, put(light, "senders", "light"))
    assert list(card.senders) == ["full", "light"]
    assert card.senders["light"] == SenderSpec({"light": SenderGraph((0, 1))}, 3.5, "a Pi")
    assert card.sender_graphs == {"encoder", "descriptor", "light", "delta"}


def test_a_card_comes_back_from_what_it_writes(tmp_path: Path) -> None:
    card = read_card(HSC)
    (tmp_path / "model.json").write_text(card.to_json(), encoding="utf-8")
    assert read_card(tmp_path) == card


# --- wrong fields: each is named

SYMBOLS, TAIL, SENDER = ("latents", "symbols"), ("tails", "mobilenet_v2"), ("senders", "full")
GRAPH = (*SENDER, "graphs", "encoder")
WRONG: list[tuple[str, object, tuple[str, ...]]] = [
    (r"latents\.symbols\.layer: expected a whole number, found '1'", "1", (*SYMBOLS, "layer")),
    (r"latents\.symbols\.layer: .*found True", True, (*SYMBOLS, "layer")),
    (r"latents\.symbols\.layer: .*found None", None, (*SYMBOLS, "layer")),
    (r"latents\.symbols\.channels: .*above 0, found 0", 0, (*SYMBOLS, "channels")),
    (r"latents\.symbols\.channels: .*found 128\.0", 128.0, (*SYMBOLS, "channels")),
    (r"latents\.symbols\.stride: .*above 0, found -16", -16, (*SYMBOLS, "stride")),
    (r"latents\.symbols\.stride: .*found '16'", "16", (*SYMBOLS, "stride")),
    (r"latents\.symbols\.sides: expected none beside a stride", [3], (*SYMBOLS, "sides")),
    (r"latents\.descriptor\.sides\[1\]: .*found 0", [3, 0], ("latents", "descriptor", "sides")),
    (r"latents\.symbols\.low: expected a whole number, found -1\.5", -1.5, (*SYMBOLS, "low")),
    (r"latents\.symbols\.high: expected a whole number, found '9'", "9", (*SYMBOLS, "high")),
    (r"latents\.hyper\.high: expected -15 or more", -16, ("latents", "hyper", "high")),
    ("colour", 1, (*SYMBOLS, "colour")),
    (r"tails\.mobilenet_v2\.layers: expected some of \[0, 1\], found \(\)", [], (*TAIL, "layers")),
    (r"tails\.mobilenet_v2\.layers: .*found \(2,\)", [2], (*TAIL, "layers")),
    (r"tails\.mobilenet_v2\.layers: .*found \('0',\)", "0", (*TAIL, "layers")),
    (r"tails\.mobilenet_v2\.layers: .*found \(False,\)", [False], (*TAIL, "layers")),
    (r"tails\.mobilenet_v2\.least_layers: expected 1 to 1", 2, (*TAIL, "least_layers")),
    (r"tails\.mobilenet_v2\.least_layers: ", 0, (*TAIL, "least_layers")),
    (r"tails\.mobilenet_v2\.least_layers: ", True, (*TAIL, "least_layers")),
    (r"tails\.mobilenet_v2\.tasks: ", "classify", (*TAIL, "tasks")),
    (r"tails\.mobilenet_v2\.tasks: ", [7], (*TAIL, "tasks")),
    (r"tails\.mobilenet_v2\.head: expected a name, found 7", 7, (*TAIL, "head")),
    (r"tails\.mobilenet_v2\.classes: .*found None", None, (*TAIL, "classes")),
    (r"tails\.mobilenet_v2\.features\.channels", 0, (*TAIL, "features", "channels")),
    (r"tails\.mobilenet_v2\.features\.stride", "8", (*TAIL, "features", "stride")),
    ("colour", 1, (*TAIL, "colour")),
    ("senders: expected at least one", {}, ("senders",)),
    (r"senders\.full\.graphs: expected at least one", {}, (*SENDER, "graphs")),
    (r"senders\.full\.milliseconds: .*found -1", -1, (*SENDER, "milliseconds")),
    (r"senders\.full\.milliseconds: .*found 'fast'", "fast", (*SENDER, "milliseconds")),
    (r"senders\.full\.milliseconds: .*found True", True, (*SENDER, "milliseconds")),
    (r"senders\.full\.milliseconds: .*found nan", float("nan"), (*SENDER, "milliseconds")),
    (r"senders\.full\.measured_on: .*found 3", 3, (*SENDER, "measured_on")),
    (r"senders\.full\.encoder\.layers: .*found \(7,\)", [7], (*GRAPH, "layers")),
    (r"senders\.full\.encoder\.layers: .*found \(\)", [], (*GRAPH, "layers")),
    (r"senders\.full\.encoder\.picture: expected one of", "photo", (*GRAPH, "picture")),
    (r"senders\.full\.descriptor\.picture: a window needs", None, ("input", "window")),
    (r"senders\.full\.encoder\.multiply_adds: .*found -1", -1, (*GRAPH, "multiply_adds")),
    (r"senders\.full\.encoder\.multiply_adds: .*found 1\.5", 1.5, (*GRAPH, "multiply_adds")),
    ("colour", 1, (*SENDER, "colour")),
    ("colour", 1, (*GRAPH, "colour")),
]


@pytest.mark.parametrize(("message", "value", "place"), WRONG)
def test_a_wrong_field_is_named(
    tmp_path: Path, message: str, value: object, place: tuple[str, ...]
) -> None:
    with pytest.raises(ModelError, match=rf"model\.json: .*{message}") as caught:
        card_with(tmp_path, put(value, *place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", ["latents", "tails", "senders"])
@pytest.mark.parametrize("value", [None, 3, "text", [], [1], {"x": 3}, {"x": {}}, {"x": None}])
def test_a_group_of_another_kind_is_refused(tmp_path: Path, group: str, value: object) -> None:
    with pytest.raises(ModelError, match=r"model\.json: the card lacks or misnames a field"):
        card_with(tmp_path, put(value, group))
