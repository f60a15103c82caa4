"""What a training goes on from: a finished run, or a model package with what a run has reached.

Long trainings cross machines as packages: a package is in the repository, a run is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError, ModelError
from cdvision.networks.stored_weights import restore_weights
from cdvision.package.card import CARD_FILE, ModelCard
from cdvision.package.card_reader import read_card
from cdvision.package.loader import check_file
from cdvision.package.registry import model_folder
from cdvision.training.run_folder import CHECKPOINT, RECORD, WEIGHTS, read_record
from cdvision.training.tensor_files import is_written, read_tensors


@dataclass(frozen=True)
class Finished:
    """A finished run or a model package."""

    folder: Path
    record: dict[str, Any]  # how it was trained; a package's has its name and fingerprint too
    card: ModelCard | None = None  # of a package

    @property
    def weights_path(self) -> Path:
        """Path of the weights, which a run may have in parts."""
        return self.folder / WEIGHTS

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name; half precision and bytes become float32."""
        return restore_weights(read_tensors(self.weights_path))

    def checkpointed(self, module: str) -> dict[str, Tensor]:
        """Return the state of one module of a run's checkpoint; empty where there is none."""
        path, prefix = self.folder / CHECKPOINT, f"{module}/"
        tensors = read_tensors(path) if is_written(path) else {}
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def require_network(self, network: str) -> None:
        """Refuse a package of another network; a run is known by its weights only."""
        if self.card is not None and self.card.network != network:
            raise CdvisionError(
                f"{self.folder}: expected a package of {network!r}, found one of "
                f"{self.card.network!r}"
            )


def open_finished(source: Path | str) -> Finished:
    """Open a finished run's folder, a package's folder, or an installed package by its name.

    Raises:
        CdvisionError: it is neither, or a package's weights are damaged.
    """
    folder = Path(source)
    if (folder / RECORD).is_file() or (folder.is_dir() and not (folder / CARD_FILE).is_file()):
        return Finished(folder, read_record(folder))
    try:
        folder = model_folder(str(source))
    except ModelError as error:
        raise CdvisionError(f"expected a finished run or a package: {error}") from error
    card = read_card(folder)
    check_file(folder / WEIGHTS, card.files.get(WEIGHTS, "of the card, which names no weights"))
    origin = {"package": card.name, "fingerprint": card.fingerprint}
    return Finished(folder, {**card.training, **origin}, card)


def fill_module(module: nn.Module, weights: Mapping[str, Tensor], origin: object) -> None:
    """Load weights into a module; raises CdvisionError that names their origin if they do not fit.

    (In one line: torch's own message has one for each tensor.)
    """
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CdvisionError(f"{origin}: these weights do not fit: {reason}") from error


def average_runs(run: Finished, start: Finished, share: float) -> dict[str, Tensor]:
    """Return weights: ``share`` of a run's, the rest of those of what it went on from.

    Where both lie in one valley, their mean lies deeper: it averages away what the last steps left
    as noise. For `small`, 0.6 of a run had a lower loss at the upper qualities than either
    (TRAINING.md). Source: Wortsman et al., "Model soups", ICML 2022.

    Raises:
        CdvisionError: they are of different networks.
    """
    ours, theirs = run.weights(), start.weights()
    shared = ours.keys() & theirs.keys()
    if not shared or any(ours[name].shape != theirs[name].shape for name in shared):
        raise CdvisionError(f"{start.folder}: expected the networks of {run.folder}, found others")
    mean = dict(ours)  # a mask branch that only the run has, and integers, are taken as they are
    for name, value in ours.items():
        if value.is_floating_point():
            mixed = torch.lerp(theirs[name], value, share) if name in shared else value
            mean[name] = mixed.half()  # rounded once, after the mean
    return mean
