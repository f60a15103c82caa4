"""Reads and checks the model card, ``model.json``."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from cdvision.errors import ModelError
from cdvision.package.card import (
    CARD_FILE,
    CARD_FORMAT,
    FITS,
    PICTURES,
    FeatureSpec,
    InputSpec,
    LatentSpec,
    ModelCard,
    SenderGraph,
    SenderSpec,
    SequenceSpec,
    TailSpec,
    WindowSpec,
)

Card = TypeVar("Card")


def read_card(folder: Path) -> ModelCard:
    """Read and check ``folder/model.json``; raises ModelError."""
    return read_json(folder / CARD_FILE, "model package", "card", CARD_FORMAT, _card_from)


def read_json(
    path: Path, folder: str, card: str, number: int, build: Callable[[dict[str, Any]], Card]
) -> Card:
    """Read the JSON file that describes a folder, and ``build`` a card of its values.

    Messages call its ``folder`` and the ``card`` so; ``number`` is that of the card's format.

    Raises:
        ModelError: the file is missing, of another format, or ``build`` refuses its values.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path.parent} is no {folder}: {path.name} cannot be read") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found != number:
        raise ModelError(f"{path}: expected {card} format {number}, found {found}")
    try:
        return build(values)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ModelError(f"{path}: the card lacks or misnames a field ({error})") from error


def _card_from(values: dict[str, Any]) -> ModelCard:
    picture = values["input"]
    window = None if picture.get("window") is None else WindowSpec(**picture["window"])
    parts: dict[str, Any] = {
        "tails": {name: _tail_from(tail) for name, tail in values["tails"].items()},
        "input": InputSpec(**{**picture, "padding": tuple(picture["padding"]), "window": window}),
        "latents": {
            name: LatentSpec(**{**spec, "sides": tuple(spec.get("sides", ()))})
            for name, spec in values["latents"].items()
        },
        "senders": {name: _sender_from(sender) for name, sender in values["senders"].items()},
        "provenance": tuple(values["provenance"]),
        "metrics": tuple(values["metrics"]),
    }
    if values.get("sequence") is not None:
        parts["sequence"] = SequenceSpec(**values["sequence"])
    card = ModelCard(**{**values, **parts})
    _check_values(card)
    return card


def _tail_from(values: dict[str, Any]) -> TailSpec:
    lists: dict[str, Any] = {
        name: tuple(values[name]) for name in ("tasks", "layers") if name in values
    }
    return TailSpec(**{**values, **lists, "features": FeatureSpec(**values["features"])})


def _sender_from(values: dict[str, Any]) -> SenderSpec:
    graphs = {
        name: SenderGraph(**{**graph, "layers": tuple(graph["layers"])})
        for name, graph in values["graphs"].items()
    }
    return SenderSpec(**{**values, "graphs": graphs})


def _check_values(card: ModelCard) -> None:
    """Check types, and the numbers that sizes are computed from; raises TypeError, ValueError."""
    for text in (card.name, card.fingerprint, card.network, *card.files, *card.files.values()):
        if not isinstance(text, str):
            raise TypeError(f"expected text, found {text!r}")
    for name, value in _counts(card).items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: expected a whole number above 0, found {value!r}")
    if card.default_quality > card.qualities:
        raise ValueError(f"default_quality: expected 1 to {card.qualities}")
    _check_input(card.input)
    for name, spec in card.latents.items():
        _check_latents(f"latents.{name}", spec)
    for name, tail in card.tails.items():
        _check_tail(f"tails.{name}", tail, card)
    if not card.senders:
        raise ValueError("senders: expected at least one")
    for name, sender in card.senders.items():
        _check_sender(f"senders.{name}", sender, card)


def _check_input(picture: InputSpec) -> None:
    if picture.size % picture.multiple or picture.size > picture.max_size:
        raise ValueError("input.size: expected a multiple of input.multiple up to input.max_size")
    if picture.fit not in FITS:
        raise ValueError(f"input.fit: expected one of {FITS}, found {picture.fit!r}")
    if picture.window is not None and not 0 < picture.window.crop <= 1:
        raise ValueError("input.window.crop: expected a share of the short side")
    if picture.least_size % picture.multiple or picture.least_size > picture.size:
        raise ValueError("input.least_size: expected a multiple of input.multiple up to input.size")


def _check_latents(name: str, spec: LatentSpec) -> None:
    for field in ("layer", "low", "high"):
        value = getattr(spec, field)
        if type(value) is not int:  # True is an int, too
            raise ValueError(f"{name}.{field}: expected a whole number, found {value!r}")
    if spec.low > spec.high:
        raise ValueError(f"{name}.high: expected {spec.low} or more, found {spec.high}")
    if spec.stride is not None and spec.sides:
        raise ValueError(f"{name}.sides: expected none beside a stride, found {spec.sides}")


def _check_tail(name: str, tail: TailSpec, card: ModelCard) -> None:
    if not all(isinstance(task, str) and len(task) > 1 for task in tail.tasks):
        raise TypeError(f"{name}.tasks: expected a list of names, found {tail.tasks!r}")
    _check_layers(name, tail.layers, card)
    if type(tail.least_layers) is not int or not 1 <= tail.least_layers <= len(tail.layers):
        raise ValueError(f"{name}.least_layers: expected 1 to {len(tail.layers)}")
    for field in ("head", "classes"):
        if not isinstance(getattr(tail, field), str):
            raise TypeError(f"{name}.{field}: expected a name, found {getattr(tail, field)!r}")


def _check_sender(name: str, sender: SenderSpec, card: ModelCard) -> None:
    if not sender.graphs:
        raise ValueError(f"{name}.graphs: expected at least one")
    time = sender.milliseconds
    if time is not None and (type(time) not in (int, float) or not 0 < time < inf):
        raise ValueError(f"{name}.milliseconds: expected a time above 0, found {time!r}")
    if not isinstance(sender.measured_on, str):
        raise TypeError(f"{name}.measured_on: expected text, found {sender.measured_on!r}")
    for graph, spec in sender.graphs.items():
        _check_layers(f"{name}.{graph}", spec.layers, card)
        if spec.picture not in PICTURES:
            raise ValueError(f"{name}.{graph}.picture: expected one of {PICTURES}")
        if spec.picture == "window" and card.input.window is None:
            raise ValueError(f"{name}.{graph}.picture: a window needs input.window")
        count = spec.multiply_adds
        if type(count) is not int or count < 0:
            raise ValueError(f"{name}.{graph}.multiply_adds: expected a count, found {count!r}")


def _check_layers(name: str, layers: tuple[int, ...], card: ModelCard) -> None:
    known = sorted({spec.layer for spec in card.latents.values()})
    if not layers or any(type(layer) is not int or layer not in known for layer in layers):
        raise ValueError(f"{name}.layers: expected some of {known}, found {layers!r}")


def _counts(card: ModelCard) -> dict[str, object]:
    """Return every number that a size is computed from, by its name in the card."""
    picture = card.input
    names = ("codec", "qualities", "default_quality")
    counts: dict[str, object] = {name: getattr(card, name) for name in names}
    sizes = ("size", "multiple", "max_size", "least_size")
    counts |= {f"input.{name}": getattr(picture, name) for name in sizes}
    if picture.window is not None:
        counts["input.window.side"] = picture.window.side
    for name, tail in card.tails.items():
        counts[f"tails.{name}.features.channels"] = tail.features.channels
        counts[f"tails.{name}.features.stride"] = tail.features.stride
    for name, spec in card.latents.items():
        counts[f"latents.{name}.channels"] = spec.channels
        counts |= {f"latents.{name}.sides[{n}]": side for n, side in enumerate(spec.sides)}
        if spec.stride is not None:
            counts[f"latents.{name}.stride"] = spec.stride
    return counts
