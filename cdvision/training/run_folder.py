"""What a run leaves in its folder: weights, a record, a log and the checkpoint, without pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cdvision.errors import CdvisionError
from cdvision.training.plan import Plan, Progress
from cdvision.training.stage import Stage
from cdvision.training.tensor_files import is_written, read_metadata, read_tensors, write_tensors

CHECKPOINT, WEIGHTS, RECORD = "checkpoint.safetensors", "weights.safetensors", "training.json"
LOG = "log.jsonl"


def write_result(module: nn.Module, out: Path) -> None:
    """Write ``weights.safetensors``: parameters in half precision, buffers as they are."""
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {
        name: (value.half() if name in parameters else value).clone()
        for name, value in module.state_dict().items()
    }
    write_tensors(out / WEIGHTS, tensors)


def write_record(
    stage: Stage, out: Path, plan: Plan, progress: Progress, facts: Mapping[str, Any]
) -> None:
    """Write ``training.json``: the plan, what the caller knows, and the stage's own facts."""
    record = {
        "stage": stage.name,
        "steps": progress.step,
        "minutes": round(progress.seconds / 60, 2),
        "batch": plan.batch,
        "device": plan.device.type,
        "bf16": plan.bf16,
        "seed": plan.seed,
        **facts,
        **stage.record(),
    }
    write_json(out / RECORD, record)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record for people and programs, one field a line."""
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def append_log(
    stage: Stage, out: Path, progress: Progress, terms: Sequence[Mapping[str, Tensor]]
) -> None:
    """Append a line to ``log.jsonl``: the means of the last steps' terms, and what is watched."""
    names = {name for step in terms for name in step}  # a step may have its own tasks only
    means = {
        name: round(float(np.mean([float(s[name]) for s in terms if name in s])), 5)
        for name in sorted(names)
    }
    line = {"step": progress.step, "seconds": round(progress.seconds, 1), **means}
    with open(out / LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line | stage.watched()) + "\n")


def read_record(run: Path) -> dict[str, Any]:
    """Return what ``training.json`` keeps of a finished run; raises CdvisionError for another."""
    path = run / RECORD
    if not path.is_file() or not is_written(run / WEIGHTS):
        raise CdvisionError(f"{run}: expected a finished run with {RECORD} and {WEIGHTS}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizer: Optimizer,
    progress: Progress,
    opponent: Optimizer | None = None,
) -> None:
    """Write modules, moments and counters; if stopped, the last checkpoint stays.

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
