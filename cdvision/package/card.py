"""The model card, ``model.json``: the contract between a package and the runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdvision.errors import ModelError

CARD_FILE = "model.json"
CARD_FORMAT = 1


@dataclass(frozen=True)
class LatentSpec:
    """What a layer holds: integers (channels, H / stride, W / stride), rounded up."""

    channels: int
    stride: int


@dataclass(frozen=True)
class FeatureSpec:
    """What a tail expects at its split point: real values (channels, H / stride, W / stride).

    ``cells`` is set where the tap resamples a window of the image to cells x cells; ``crop`` is
    then the side of that central square over the short side of the image.
    """

    channels: int
    stride: int
    cells: int | None = None
    crop: float = 1.0


@dataclass(frozen=True)
class TailSpec:
    """One task network: its features, its task, and the names of its classes."""

    task: str
    features: FeatureSpec
    classes: str
    description: str = ""


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes a network input.

    Attributes:
        size: default long side of the network input, pixels.
        multiple: both sides are padded to a multiple of this.
        max_size: longest side that a stream may ask for; bounds a receiver's memory.
        padding: RGB colour of the padding.
    """

    size: int
    multiple: int
    max_size: int
    padding: tuple[int, int, int]


@dataclass(frozen=True)
class ModelCard:
    """Everything that a runtime has to know of a model, and everything that a reader asks."""

    name: str
    description: str
    network: str
    codec: int
    fingerprint: str
    qualities: int
    default_quality: int
    latents: LatentSpec
    hyper_latents: LatentSpec
    input: InputSpec
    tails: Mapping[str, TailSpec]
    licence: str
    provenance: tuple[Mapping[str, str], ...]
    training: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = CARD_FORMAT

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the model answers, in the order of its tails."""
        return tuple(dict.fromkeys(tail.task for tail in self.tails.values()))

    def tail_for(self, task: str) -> str | None:
        """Return the name of the tail that answers a task, or None."""
        return next((name for name, tail in self.tails.items() if tail.task == task), None)

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
        return _card_from(values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: the card lacks or misnames a field ({error})") from error


def _card_from(values: dict[str, Any]) -> ModelCard:
    tails = {
        name: TailSpec(**{**tail, "features": FeatureSpec(**tail["features"])})
        for name, tail in values["tails"].items()
    }
    picture = values["input"]
    parts = {
        "tails": tails,
        "input": InputSpec(**{**picture, "padding": tuple(picture["padding"])}),
        "latents": LatentSpec(**values["latents"]),
        "hyper_latents": LatentSpec(**values["hyper_latents"]),
        "provenance": tuple(values["provenance"]),
        "metrics": tuple(values["metrics"]),
    }
    return ModelCard(**{**values, **parts})
