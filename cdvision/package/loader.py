"""Loads a model package, after checking the hash of every file that its card names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Coder
from cdvision.entropy.delta_coder import DeltaCoder
from cdvision.errors import ModelError
from cdvision.package.card import ModelCard
from cdvision.package.card_reader import read_card
from cdvision.package.families import coder_class

TABLES_FILE = "tables.npz"
SEQUENCE_FILE = "sequence.npz"
CLASSES_FILE = "classes.json"
WEIGHTS_FILE = "weights.safetensors"
_PIECE = 2**20  # bytes of a file that are hashed at once


@dataclass(frozen=True)
class ModelPackage:
    """A checked folder; its parts are read when they are first needed.

    The card has one tail more for each attached tap; ``attached`` gives the folders of the graphs
    that came with taps, by file name.
    """

    folder: Path
    card: ModelCard
    attached: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def coder(self) -> Coder:
        """The entropy coder; raises ModelError where its tables are not the card's."""
        path = self.folder / TABLES_FILE
        coder: Coder = coder_class(self.card.codec).from_arrays(_read_arrays(path))
        _compare(self.card, coder, path)
        return coder

    @cached_property
    def delta_coder(self) -> DeltaCoder:
        """The coder of delta packets; raises ModelError where the model has none."""
        if self.card.sequence is None or SEQUENCE_FILE not in self.card.files:
            raise ModelError(
                f"model {self.card.name!r} has no delta packets: it sends photos, not videos"
            )
        path = self.folder / SEQUENCE_FILE
        deltas = DeltaCoder.from_arrays(_read_arrays(path))
        expected, found = self.card.sequence.fingerprint, deltas.fingerprint(self.coder).hex()
        if found != expected:
            raise ModelError(f"{path}: expected fingerprint {expected}, found {found}")
        return deltas

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Class names by the name of their list, in the order of the heads' outputs."""
        path = self.folder / CLASSES_FILE
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
            wanted = [tail.classes for tail in self.card.tails.values() if tail.classes]
            return {name: tuple(lists[name]) for name in wanted}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{path}: not the lists of names that tails need ({error})") from error

    @property
    def weights_path(self) -> Path:
        """Weights of every network, which the graphs and the PyTorch engine share."""
        return self.folder / WEIGHTS_FILE

    def graph_path(self, graph: str) -> Path:
        """Path of a dense graph; raises ModelError where the package has none of that name."""
        file = f"{graph}.onnx"
        if file not in self.card.files:
            held = ", ".join(n.removesuffix(".onnx") for n in self.card.files if ".onnx" in n)
            raise ModelError(
                f"model {self.card.name!r} has no graph {graph!r}: this package holds {held}"
            )
        return self.attached.get(file, self.folder) / file


def load_package(folder: Path) -> ModelPackage:
    """Read a package and check every file that its card names against its SHA-256.

    Raises:
        ModelError: the folder is no package, or a file is missing or differs from its hash.
    """
    card = read_card(folder)
    for name, expected in card.files.items():
        if Path(name).name != name:
            raise ModelError(f"{folder}: expected plain file names in the card, found {name!r}")
        check_file(folder / name, expected)
    for name in (TABLES_FILE, CLASSES_FILE):
        if name not in card.files:
            raise ModelError(f"{folder}: the card does not name {name}")
    return ModelPackage(folder, card)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def check_file(path: Path, expected: str) -> None:
    """Compare a file with its SHA-256; raises ModelError where it is missing or differs."""
    if not path.is_file():
        raise ModelError(f"{path} is missing: the package is incomplete, install it again")
    found = file_sha256(path)
    if found != expected:
        raise ModelError(f"{path} is damaged: expected SHA-256 {expected}, found {found}")


def _compare(card: ModelCard, coder: Coder, path: Path) -> None:
    """Refuse a coder that is not the one that a card describes; raises ModelError."""
    for name, expected, found in (
        ("fingerprint", card.fingerprint, coder.fingerprint.hex()),
        ("qualities", card.qualities, coder.qualities),
        ("layers", {n: spec.layer for n, spec in card.latents.items()}, coder.latent_layers),
        ("ranges", {n: (one.low, one.high) for n, one in card.latents.items()}, coder.ranges()),
    ):
        if found != expected:
            raise ModelError(f"{path}: expected {name} {expected}, found {found}")
    try:
        coder.check_shapes(card.latent_shapes((card.input.size, card.input.size)))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy, zipfile and zlib share no base
        raise ModelError(f"{path}: not an archive of plain arrays ({error})") from error
