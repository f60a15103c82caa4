"""The loop that every stage shares: resumable, timed, logged, and the same however often stopped.

Random numbers are seeded by (seed, step), and what a stage draws is drawn from them only: a run
that was stopped and resumed takes exactly the steps of one that was not.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from cdvision.errors import CdvisionError
from cdvision.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from cdvision.training.stopping import stop_between_steps

LOG_EVERY = 20
MAX_NORM = 60.0  # of gradients; far above the usual, it only catches what would end a run
CHECKPOINT, WEIGHTS, RECORD = "checkpoint.safetensors", "weights.safetensors", "training.json"


@dataclass(frozen=True)
class Plan:
    """How long, how much and where a stage trains.

    Attributes:
        minutes: length of the run; learning rates fall as a cosine over it.
        steps: length in steps instead.
        batch: photos a step.
        device: where.
        bf16: run networks under bfloat16 autocast.
        warmup_steps: over which learning rates rise.
        save_minutes: between checkpoints.
        seed: of everything that is drawn.
    """

    minutes: float
    batch: int
    device: torch.device
    steps: int | None = None
    bf16: bool = False
    warmup_steps: int = 100
    save_minutes: float = 5.0
    seed: int = 0

    def done(self, progress: Progress) -> float:
        """Share of the run that is over, 0..1."""
        if self.steps is not None:
            return min(1.0, progress.step / self.steps)
        return min(1.0, progress.seconds / (60 * self.minutes))

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which networks run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class Stage(ABC):
    """One stage of training: what it trains, and the loss of one batch.

    Attributes:
        name: of the stage.
        optimizer: of what it trains.
        opponent: optimiser of a second player, who moves first in every step (a discriminator).
    """

    name: str
    optimizer: Optimizer
    opponent: Optimizer | None = None

    def begin(self, rng: np.random.Generator) -> None:  # noqa: B027 (most have nothing to do)
        """Prepare a new run; a resumed one is not prepared again."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""

    @abstractmethod
    def result(self) -> nn.Module:
        """Return what the run is for."""

    @abstractmethod
    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, and its terms for the log.

        Args:
            rng: the only source of what is drawn, beside torch's own generator.
            done: share of the run that is over.
        """

    def opponent_loss(
        self, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the second player's loss of one batch, as ``loss`` does."""
        raise NotImplementedError(f"{self.name} has one player")

    def after_step(self) -> None:  # noqa: B027 - most stages have nothing to do here
        """Follow the optimiser's step."""

    def watched(self) -> dict[str, Any]:
        """Return what the log tells beside the terms."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {}


def run_stage(
    stage: Stage, out: Path, plan: Plan, facts: Mapping[str, Any] | None = None
) -> nn.Module:
    """Train, or resume, until the plan's time is spent; return the result.

    Args:
        stage: what to train.
        out: folder of the run. In the end it holds ``weights.safetensors`` (parameters in half
            precision), ``training.json``, ``log.jsonl`` and the checkpoint.
        plan: how long and where.
        facts: what ``training.json`` keeps beside the stage's own record.

    Raises:
        KeyboardInterrupt: the run was interrupted; its checkpoint is written.
        CdvisionError: the disk is full, or the checkpoint is another run's.
    """
    out.mkdir(parents=True, exist_ok=True)
    for optimizer in _players(stage):
        for group in optimizer.param_groups:
            group.setdefault("base_rate", group["lr"])
    progress = Progress()
    if (out / CHECKPOINT).is_file():
        progress = _resume(stage, out)
    else:
        stage.begin(np.random.default_rng(plan.seed))
    _loop(stage, out, plan, progress)
    _save(stage, out, progress)
    write_result(stage.result(), out)
    _write_record(stage, out, plan, progress, facts or {})
    return stage.result()


def write_result(module: nn.Module, out: Path) -> None:
    """Write ``weights.safetensors``: parameters in half precision, buffers as they are."""
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {
        name: (value.half() if name in parameters else value).cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }
    save_file(tensors, out / WEIGHTS)


def _players(stage: Stage) -> list[Optimizer]:
    """Return the optimisers in the order in which they move."""
    return [stage.optimizer] if stage.opponent is None else [stage.opponent, stage.optimizer]


def _save(stage: Stage, out: Path, progress: Progress) -> None:
    save_checkpoint(
        out / CHECKPOINT, stage.modules(), stage.optimizer, progress, opponent=stage.opponent
    )


def read_record(run: Path) -> dict[str, Any]:
    """Return what ``training.json`` keeps of a finished run; raises CdvisionError for another."""
    path = run / RECORD
    if not path.is_file() or not (run / WEIGHTS).is_file():
        raise CdvisionError(f"{run}: expected a finished run with {RECORD} and {WEIGHTS}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def _resume(stage: Stage, out: Path) -> Progress:
    try:
        return load_checkpoint(
            out / CHECKPOINT, stage.modules(), stage.optimizer, opponent=stage.opponent
        )
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CdvisionError(
            f"{out / CHECKPOINT} is not a checkpoint of this stage with these options ({reason}); "
            "name another folder with -o, or the options that it was started with"
        ) from error


def _loop(stage: Stage, out: Path, plan: Plan, progress: Progress) -> None:
    saved, terms = progress.seconds, list[dict[str, Tensor]]()
    total = plan.steps if plan.steps is not None else round(60 * plan.minutes)
    unit = "step" if plan.steps is not None else "s"
    stopping, bar = (
        stop_between_steps(),
        tqdm(total=total, desc=stage.name, unit=unit, disable=None),
    )
    with stopping as stop, bar:
        while (done := plan.done(progress)) < 1:
            started = time.perf_counter()
            terms.append(_step(stage, plan, progress, done))
            progress.seconds += time.perf_counter() - started
            bar.update(round(plan.done(progress) * total) - bar.n)
            if progress.step % LOG_EVERY == 0 or plan.done(progress) >= 1:
                _write_log(stage, out, progress, terms)
                terms = []
            if stop.made or progress.seconds - saved > 60 * plan.save_minutes:
                _save(stage, out, progress)
                saved = progress.seconds
            if stop.made:
                raise KeyboardInterrupt


def _step(stage: Stage, plan: Plan, progress: Progress, done: float) -> dict[str, Tensor]:
    torch.manual_seed(plan.seed + 1_000_003 * progress.step)
    rng = np.random.default_rng((plan.seed, progress.step))
    found: dict[str, Tensor] = {}
    if stage.opponent is not None:
        loss, terms = stage.opponent_loss(rng, done)
        norm = _move(stage.opponent, loss, plan, progress, done)
        found |= {"opponent": loss.detach(), "opponent_norm": norm} | _detached(terms)
    loss, terms = stage.loss(rng, done)
    norm = _move(stage.optimizer, loss, plan, progress, done)
    if torch.isfinite(norm):
        stage.after_step()
    progress.step += 1
    return found | {"loss": loss.detach(), "norm": norm} | _detached(terms)


def _move(
    optimizer: Optimizer, loss: Tensor, plan: Plan, progress: Progress, done: float
) -> Tensor:
    """Take one player's step and return the norm of the gradients."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, MAX_NORM)
    if torch.isfinite(norm):  # one bad batch must not end a run of hours
        _schedule(optimizer, plan, progress, done)
        optimizer.step()
    return norm


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}


def _schedule(optimizer: Optimizer, plan: Plan, progress: Progress, done: float) -> None:
    factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    factor *= min(1.0, (progress.step + 1) / plan.warmup_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor


def _write_log(
    stage: Stage, out: Path, progress: Progress, terms: Sequence[dict[str, Tensor]]
) -> None:
    names = {name for step in terms for name in step}  # a step may have its own tasks only
    means = {
        name: round(float(np.mean([float(s[name]) for s in terms if name in s])), 5)
        for name in sorted(names)
    }
    line = {"step": progress.step, "seconds": round(progress.seconds, 1), **means}
    with open(out / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line | stage.watched()) + "\n")


def _write_record(
    stage: Stage, out: Path, plan: Plan, progress: Progress, facts: Mapping[str, Any]
) -> None:
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
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
