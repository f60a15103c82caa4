"""What a run leaves in its folder: weights, a record, a log, and the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.training.plan import Plan, Progress
from cdvision.training.stage import Stage
from cdvision.training.tensor_files import is_written, write_tensors

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
