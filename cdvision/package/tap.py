"""Taps for networks of users: folders of their own that one model is loaded with.

A tap's folder holds ``tap.json`` (below), ``weights.safetensors`` and graphs: ``tap.NAME`` from a
stream's latents to the features at the network's split point, and, where the rest of the network
could be exported, ``answer.NAME``, which goes on to the network's outputs. The graphs hold the
model's dequantiser too: beside the streams themselves, a tap needs nothing of its model's package.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cdvision.entropy.map_coder import SYMBOLS
from cdvision.errors import BitstreamError, ModelError
from cdvision.package.card import FeatureSpec, TailSpec
from cdvision.package.card_reader import read_json
from cdvision.package.loader import ModelPackage, check_file, load_package
from cdvision.package.registry import folder_for_fingerprint, model_folder

TAP_FILE = "tap.json"
TAP_FORMAT = 1
RAW = "raw"  # the head of a tail whose outputs are given as they are
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class TapCard:
    """The values of ``tap.json``."""

    name: str  # of the tap; ``Stream.features`` and ``Stream.dense`` are asked with it
    model: str  # name of the model whose streams it reads
    fingerprint: str  # of that model: of no other model's streams could it make sense
    features: FeatureSpec  # at the network's split point
    network: Mapping[str, Any]  # where the network came from, its split point and its weights
    # Names of the network's outputs in ``answer.NAME``; empty without that graph.
    outputs: tuple[str, ...]
    preprocessing: Mapping[str, Any]  # how pixels enter the network
    training: Mapping[str, Any]  # how the tap was fitted
    # Measured figures, one entry a quality, and the photos that they are of.
    metrics: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of every file beside
    format: int = TAP_FORMAT

    def to_json(self) -> str:
        """Serialise for ``tap.json``."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def tail(self, layer: int) -> TailSpec:
        """Return the network's tail on the model's card; ``layer`` is the id of the map's layer."""
        text = f"{self.network.get('source')} after {self.network.get('split')}"
        return TailSpec((), self.features, classes="", description=text, head=RAW, layers=(layer,))


def is_tap(folder: str | Path) -> bool:
    """Tell whether a folder holds a tap."""
    return os.path.isfile(Path(folder) / TAP_FILE)


def read_tap(folder: str | Path) -> TapCard:
    """Read a tap's card and check its files.

    Raises:
        ModelError: there is no tap, or a file is missing or differs from its hash.
    """
    card = read_json(Path(folder) / TAP_FILE, "tap", "tap", TAP_FORMAT, _card_from)
    for name, expected in card.files.items():
        check_file(Path(folder) / name, expected)
    return card


def _card_from(values: dict[str, Any]) -> TapCard:
    features, outputs = FeatureSpec(**values["features"]), tuple(values["outputs"])
    card = TapCard(**{**values, "features": features, "outputs": outputs})
    for text in (card.name, card.model, card.fingerprint, *card.outputs, *card.files.values()):
        if not isinstance(text, str):
            raise TypeError(f"expected text, found {text!r}")
    for count in (features.channels, features.stride):
        if type(count) is not int or count < 1:
            raise ValueError(f"features: expected whole numbers above 0, found {count!r}")
    check_tap_name(card.name)
    if any(Path(name).name != name for name in card.files):
        raise ValueError("files: expected plain file names")
    if f"tap.{card.name}.onnx" not in card.files:
        raise ValueError(f"files: expected tap.{card.name}.onnx among them")
    return card


def check_tap_name(name: str) -> None:
    """Refuse what would not do as part of a file name; raises ModelError."""
    if not NAME.fullmatch(name):
        raise ModelError(f"a tap's name: expected letters, digits, - and _, found {name!r}")


def load_with_taps(name: str | Path, taps: Sequence[str | Path] = ()) -> ModelPackage:
    """Load a package, by a model's name or folder or by a tap's folder, and attach taps to it.

    Raises:
        ModelError: no such model or tap, one is damaged, or a tap belongs to another model.
    """
    if is_tap(name):
        name, taps = _model_of(read_tap(name), name), (name, *taps)
    package = load_package(model_folder(name))
    for folder in taps:
        package = attach(package, Path(folder))
    return package


def attach(package: ModelPackage, folder: Path) -> ModelPackage:
    """Return the package with one tail more; raises ModelError where the tap is not for it."""
    tap, card = read_tap(folder), package.card
    if tap.fingerprint != card.fingerprint:
        raise ModelError(
            f"{folder}: this tap belongs to model {tap.model!r} ({tap.fingerprint[:8]}), not to "
            f"{card.name!r} ({card.fingerprint[:8]}): load it with that model, or fit it again"
        )
    if tap.name in card.tails:
        raise ModelError(f"{folder}: model {card.name!r} has a tail {tap.name!r} already")
    graphs = {name: sha for name, sha in tap.files.items() if name.endswith(".onnx")}
    if taken := sorted(graphs.keys() & card.files.keys()):
        raise ModelError(f"{folder}: a tap cannot bring the model's own graph {taken[0]!r}")
    tail = tap.tail(card.latents[SYMBOLS].layer)
    extended = replace(card, tails={**card.tails, tap.name: tail}, files={**card.files, **graphs})
    attached = {**package.attached, **dict.fromkeys(graphs, folder)}
    return replace(package, card=extended, attached=attached)


def _model_of(tap: TapCard, folder: str | Path) -> str | Path:
    """Return the folder of the installed model that a tap belongs to."""
    try:
        return folder_for_fingerprint(bytes.fromhex(tap.fingerprint)[:4])
    except (BitstreamError, ValueError) as error:
        raise ModelError(
            f"{folder}: its model {tap.model!r} ({tap.fingerprint[:8]}) is not installed: "
            f"name that model's folder, and the tap with it: load(FOLDER, taps=[{str(folder)!r}])"
        ) from error
