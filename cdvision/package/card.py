"""The model card, ``model.json``: the contract between a package and the runtime."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdvision.errors import ModelError

CARD_FILE = "model.json"
CARD_FORMAT = 1
HEADS = ("distribution", "classes", "two_stage", "raw", "attributes", "picture")
FITS = ("pad", "square")


@dataclass(frozen=True)
class LatentSpec:
    """What a layer holds: integers (channels, H / stride, W / stride), rounded up."""

    channels: int
    stride: int


@dataclass(frozen=True)
class FeatureSpec:
    """What a tail expects at its split point: real values (channels, H / stride, W / stride).

    ``cells`` is set where the map is cells x cells, whatever the image's size.
    """

    channels: int
    stride: int
    cells: int | None = None


@dataclass(frozen=True)
class TailSpec:
    """One task network: its features, its tasks, and the names of its classes.

    Attributes:
        tasks: what it answers: ``detect``, ``segment``, ``classify``, ``attributes``,
            ``reconstruct``.
        features: what it expects at its split point.
        classes: name of its list of classes.
        description: for readers.
        head: how dense outputs become answers, one of ``HEADS``.
        settings: what that kind of head has to know, as JSON values.
        layer: id of the one layer that it is answered from; None where the codec has no layers
            that do without each other.
    """

    tasks: tuple[str, ...]
    features: FeatureSpec
    classes: str
    description: str = ""
    head: str = "distribution"
    settings: Mapping[str, Any] = field(default_factory=dict)
    layer: int | None = None


@dataclass(frozen=True)
class WindowSpec:
    """The central square of a photo, which the encoder of a descriptor looks at.

    Attributes:
        side: pixels that it is resampled to.
        crop: its side over the photo's short side.
    """

    side: int
    crop: float


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes a network input.

    Attributes:
        size: long side of the network input where the photo is at least as large, pixels.
        multiple: both sides are padded to a multiple of this.
        max_size: longest side that a stream may ask for; bounds a receiver's memory.
        padding: RGB colour of the padding.
        least_size: smaller photos are enlarged to this long side; those between are not.
        fit: ``pad`` keeps the whole photo and its aspect, ``square`` takes its central square.
        least_score: photos whose ``score``, an output of the encoder's graph, is lower are not
            what the model is for; None where it takes any.
        window: the sender's second look at the photo, where it has one.
    """

    size: int
    multiple: int
    max_size: int
    padding: tuple[int, int, int]
    least_size: int = 224
    fit: str = "pad"
    least_score: float | None = None
    window: WindowSpec | None = None


# How models of photos take theirs.
PHOTO_INPUT = InputSpec(size=416, multiple=32, max_size=1536, padding=(124, 116, 104))


@dataclass(frozen=True)
class ModelCard:
    """Everything that a runtime has to know of a model, and everything that a reader asks.

    A codec of maps has ``latents`` and ``hyper_latents``; a codec of several layers has neither,
    but the shape of each of its ``layers``.
    """

    name: str
    description: str
    network: str
    codec: int
    fingerprint: str
    qualities: int
    default_quality: int
    latents: LatentSpec | None
    hyper_latents: LatentSpec | None
    input: InputSpec
    tails: Mapping[str, TailSpec]
    licence: str
    provenance: tuple[Mapping[str, str], ...]
    training: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = CARD_FORMAT
    layers: tuple[tuple[int, ...], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the model answers, in the order of its tails."""
        return tuple(dict.fromkeys(task for tail in self.tails.values() for task in tail.tasks))

    def tail_for(self, task: str) -> str | None:
        """Return the name of the tail that answers a task, or None."""
        return next((name for name, tail in self.tails.items() if task in tail.tasks), None)

    def graphs_for(self, tasks: Iterable[str]) -> dict[str, str]:
        """Return the graph that each tail has to run for tasks: name of the graph by tail.

        A dense detector has a graph with masks beside the one without: detecting alone costs less.
        """
        graphs: dict[str, str] = {}
        for task in tasks:
            tail = self.tail_for(task)
            if tail is None:
                continue
            masks = task == "segment" and self.tails[tail].head == "distribution"
            if masks or tail not in graphs:
                graphs[tail] = f"{'segment' if masks else 'answer'}.{tail}"
        return graphs

    def to_json(self) -> str:
        """Serialise for ``model.json``."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_card(folder: Path) -> ModelCard:
    """Read and check ``folder/model.json``; raises ModelError."""
    path = folder / CARD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} is no model package: {CARD_FILE} cannot be read") from error
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict) or values.get("format") != CARD_FORMAT:
        found = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise ModelError(f"{path}: expected card format {CARD_FORMAT}, found {found}")
    try:
        card = _card_from(values)
        _check_values(card)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ModelError(f"{path}: the card lacks or misnames a field ({error})") from error
    return card


def _card_from(values: dict[str, Any]) -> ModelCard:
    tails = {
        name: TailSpec(
            **{**tail, "features": FeatureSpec(**tail["features"]), "tasks": tuple(tail["tasks"])}
        )
        for name, tail in values["tails"].items()
    }
    picture = values["input"]
    parts = {
        "tails": tails,
        "input": InputSpec(
            **{**picture, "padding": tuple(picture["padding"]), "window": _window_from(picture)}
        ),
        "latents": _latents_from(values["latents"]),
        "hyper_latents": _latents_from(values["hyper_latents"]),
        "layers": tuple(tuple(shape) for shape in values.get("layers", ())),
        "provenance": tuple(values["provenance"]),
        "metrics": tuple(values["metrics"]),
    }
    return ModelCard(**{**values, **parts})


def _window_from(values: dict[str, Any]) -> WindowSpec | None:
    window = values.get("window")
    return None if window is None else WindowSpec(**window)


def _latents_from(values: dict[str, Any] | None) -> LatentSpec | None:
    return None if values is None else LatentSpec(**values)


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
    picture = card.input
    if picture.size % picture.multiple or picture.size > picture.max_size:
        raise ValueError("input.size: expected a multiple of input.multiple up to input.max_size")
    for name, tail in card.tails.items():
        if not all(isinstance(task, str) and len(task) > 1 for task in tail.tasks):
            raise TypeError(f"tails.{name}.tasks: expected a list of names, found {tail.tasks!r}")
        if tail.layer is not None and (type(tail.layer) is not int or tail.layer < 0):
            raise ValueError(f"tails.{name}.layer: expected a layer's id, found {tail.layer!r}")
        if tail.head not in HEADS:
            raise ValueError(f"tails.{name}.head: expected one of {HEADS}, found {tail.head!r}")
    if picture.fit not in FITS:
        raise ValueError(f"input.fit: expected one of {FITS}, found {picture.fit!r}")
    if (card.latents is None) != bool(card.layers) or (card.latents is None) != (
        card.hyper_latents is None
    ):
        raise ValueError("expected latents and hyper_latents, or layers")
    if picture.window is not None and not 0 < picture.window.crop <= 1:
        raise ValueError("input.window.crop: expected a share of the short side")
    if picture.least_size % picture.multiple or picture.least_size > picture.size:
        raise ValueError("input.least_size: expected a multiple of input.multiple up to input.size")


def _counts(card: ModelCard) -> dict[str, object]:
    specs: dict[str, LatentSpec | FeatureSpec] = {
        f"tails.{name}.features": tail.features for name, tail in card.tails.items()
    }
    for name, spec in (("latents", card.latents), ("hyper_latents", card.hyper_latents)):
        specs |= {} if spec is None else {name: spec}
    picture = card.input
    return {
        **{f"layers[{n}]": side for n, shape in enumerate(card.layers) for side in shape},
        "codec": card.codec,
        "qualities": card.qualities,
        "default_quality": card.default_quality,
        "input.size": picture.size,
        "input.multiple": picture.multiple,
        "input.max_size": picture.max_size,
        "input.least_size": picture.least_size,
        **({} if picture.window is None else {"input.window.side": picture.window.side}),
        **{f"{name}.channels": spec.channels for name, spec in specs.items()},
        **{f"{name}.stride": spec.stride for name, spec in specs.items()},
    }
