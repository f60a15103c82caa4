"""Finds installed model packages: by name, by folder, or by the fingerprint in a stream."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cdvision.errors import BitstreamError, ModelError
from cdvision.package.card import CARD_FILE, ModelCard, SenderSpec
from cdvision.package.card_reader import read_card

MODELS = Path(__file__).parent.parent / "models"
DEFAULT_MODEL = "small"


@dataclass(frozen=True)
class ModelInfo:
    """One installed model, as `cdvision models` lists it.

    ``size_bytes`` are those of all files in the folder ``path``. Figures of the senders, of which
    the first is the default, are of a network input whose long side has ``input_size`` pixels.
    """

    name: str
    description: str
    tasks: tuple[str, ...]
    size_bytes: int
    path: Path
    input_size: int
    senders: Mapping[str, SenderSpec]


def list_models() -> list[ModelInfo]:
    """List the models of this installation, by name."""
    return [
        ModelInfo(
            name=card.name,
            description=card.description,
            tasks=card.tasks,
            size_bytes=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
            path=folder,
            input_size=card.input.size,
            senders=card.senders,
        )
        for folder, card in _cards()
    ]


def model_folder(name: str | Path) -> Path:
    """Resolve a model's name or folder; raises ModelError that lists what there is."""
    folder = Path(name)
    # An empty name is not the current folder, and an over-long one is no file.
    if str(name) and os.path.isfile(folder / CARD_FILE):
        return folder
    for installed, card in _cards():
        if card.name == name:
            return installed
    known = ", ".join(card.name for _, card in _cards()) or "none"
    raise ModelError(
        f"no model {str(name)!r}: expected a folder with {CARD_FILE} or one of: {known}"
    )


def portable_name(folder: Path) -> str:
    """Return what another process loads a package by: an installed one's name, else its folder."""
    names = {installed: card.name for installed, card in _cards()}
    return names.get(folder, str(folder.resolve()))


def folder_for_fingerprint(fingerprint: bytes) -> Path:
    """Return the folder of the installed model that wrote a stream; raises BitstreamError."""
    return _folder_for(fingerprint, {card.name: card.fingerprint for _, card in _cards()})


def folder_for_sequence(fingerprint: bytes) -> Path:
    """Return the folder of the installed model that wrote a sequence; raises BitstreamError."""
    specs = {card.name: card.sequence for _, card in _cards()}
    known = {name: spec.fingerprint for name, spec in specs.items() if spec is not None}
    return _folder_for(fingerprint, known)


def _folder_for(fingerprint: bytes, fingerprints: Mapping[str, str]) -> Path:
    for folder, card in _cards():
        if fingerprints.get(card.name, "").startswith(fingerprint.hex()):
            return folder
    known = ", ".join(f"{one[:8]} ({name})" for name, one in fingerprints.items())
    expected = f"an installed model's: {known or 'none'}"
    found = f"{fingerprint.hex()}; pass the folder of the model that wrote it"
    raise BitstreamError("model fingerprint", offset=5, expected=expected, found=found)


@cache
def _cards() -> tuple[tuple[Path, ModelCard], ...]:
    folders = sorted(path.parent for path in MODELS.glob(f"*/packages/*/{CARD_FILE}"))
    return tuple((folder, read_card(folder)) for folder in folders)
