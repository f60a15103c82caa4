"""Checkpoints without pickle: safetensors with every tensor, and the counters as text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cdvision.errors import CdvisionError
from cdvision.training.plan import Progress
from cdvision.training.tensor_files import read_metadata, read_tensors, write_tensors


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: Optimizer,
    progress: Progress,
    opponent: Optimizer | None = None,
) -> None:
    """Write atomically: a run that is stopped while saving keeps its previous checkpoint.

    Args:
        path: of the checkpoint.
        modules: what it holds, by name.
        optimizer: of the stage.
        progress: counters.
        opponent: the second optimiser of a stage with two players.

    Raises:
        CdvisionError: the disk is full, or nothing may be written there.
    """
    tensors = {
        f"{name}/{key}": value.detach().cpu().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    tensors |= _moments(optimizer, "optimizer") | _moments(opponent, "opponent")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})
    except OSError as error:
        raise CdvisionError(
            f"{path} cannot be written ({' '.join(str(error).split())}): make room and start the "
            "same command again, it goes on from the checkpoint before this one"
        ) from error


def _moments(optimizer: Optimizer | None, prefix: str) -> dict[str, Tensor]:
    if optimizer is None:
        return {}
    return {
        f"{prefix}/{index}/{key}": torch.as_tensor(value).cpu().clone()
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def load_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: Optimizer,
    opponent: Optimizer | None = None,
) -> Progress:
    """Restore modules and optimisers in place and return the counters."""
    tensors, progress = read_tensors(path), read_progress(path)
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    _restore_optimizer(optimizer, tensors, "optimizer")
    if opponent is not None:
        _restore_optimizer(opponent, tensors, "opponent")
    return progress


def read_progress(path: Path) -> Progress:
    """Return the counters of a checkpoint."""
    return Progress(**json.loads(read_metadata(path)["progress"]))


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # Fused optimisers walk memory: a moment must lie as its parameter does, channels last or not.
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter).copy_(value)
