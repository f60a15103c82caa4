"""Checkpoints without pickle: one safetensors file with every tensor, and the counters as text."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class Progress:
    """How far a run has come; all that a resumed run has to know beside the tensors."""

    step: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, modules: dict[str, nn.Module], optimizer: Optimizer, progress: Progress
) -> None:
    """Write atomically: a run that is stopped while saving keeps its previous checkpoint."""
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).cpu().contiguous().clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(partial, path)


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizer: Optimizer) -> Progress:
    """Restore modules and optimiser in place and return the counters."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        progress = Progress(**json.loads(file.metadata()["progress"]))
    for name, module in modules.items():
        prefix = f"{name}/"
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )
    _restore_optimizer(optimizer, tensors)
    return progress


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # Fused optimisers walk memory: a moment must lie as its parameter does, channels last or not.
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter).copy_(value)
