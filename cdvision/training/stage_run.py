"""The loop that every stage shares: resumable, timed, logged, and the same however often stopped.

Random numbers are seeded by (seed, step), and what a stage draws is drawn from them only: a run
that was stopped and resumed takes exactly the steps of one that was not.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from cdvision.errors import CdvisionError
from cdvision.training.checkpoint import load_checkpoint, save_checkpoint
from cdvision.training.plan import Plan, Progress
from cdvision.training.run_folder import (
    CHECKPOINT,
    RECORD,
    WEIGHTS,
    append_log,
    read_record,
    write_record,
    write_result,
)
from cdvision.training.stage import Stage
from cdvision.training.tensor_files import is_written

__all__ = [
    "CHECKPOINT", "RECORD", "WEIGHTS", "Plan", "Stage", "read_record", "run_stage", "write_result",
]  # fmt: skip

LOG_EVERY = 20  # steps
MAX_NORM = 60.0  # of gradients; far above the usual, it only catches what would end a run
STEP_SEED = 1_000_003  # a prime: no step of one seed meets a step of a neighbouring one


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
    if is_written(out / CHECKPOINT):
        progress = _resume(stage, out)
    else:
        torch.manual_seed(plan.seed)
        stage.begin(np.random.default_rng(plan.seed))
    _loop(stage, out, plan, progress)
    _save(stage, out, progress)
    write_result(stage.result(), out)
    write_record(stage, out, plan, progress, facts or {})
    return stage.result()


def _players(stage: Stage) -> list[Optimizer]:
    """Return the optimisers in the order in which they move."""
    return [stage.optimizer] if stage.opponent is None else [stage.opponent, stage.optimizer]


def _save(stage: Stage, out: Path, progress: Progress) -> None:
    save_checkpoint(
        out / CHECKPOINT, stage.modules(), stage.optimizer, progress, opponent=stage.opponent
    )


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
    bar = tqdm(total=total, desc=stage.name, unit=unit, disable=None)
    with _stop_between_steps() as stop, bar:
        while plan.done(progress) < 1:
            started = time.perf_counter()
            terms.append(_step(stage, plan, progress))
            progress.seconds += time.perf_counter() - started
            bar.update(round(plan.done(progress) * total) - bar.n)
            if progress.step % LOG_EVERY == 0 or plan.done(progress) >= 1:
                append_log(stage, out, progress, terms)
                terms = []
            if stop.is_set() or progress.seconds - saved > 60 * plan.save_minutes:
                _save(stage, out, progress)
                saved = progress.seconds
            if stop.is_set():
                raise KeyboardInterrupt


@contextmanager
def _stop_between_steps() -> Iterator[threading.Event]:
    """Note the first interrupt or termination instead of raising it; a second one raises."""
    request = threading.Event()
    # Outside the main thread no signal can be caught, and nothing changes.
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.is_set():
            raise KeyboardInterrupt
        request.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _step(stage: Stage, plan: Plan, progress: Progress) -> dict[str, Tensor]:
    """Let every player take one step; return the terms of their losses."""
    torch.manual_seed(plan.seed + STEP_SEED * progress.step)
    rng = np.random.default_rng((plan.seed, progress.step))
    done, factor = plan.done(progress), plan.rate_factor(progress)
    found: dict[str, Tensor] = {}
    if stage.opponent is not None:
        loss, terms = stage.opponent_loss(rng, done)
        norm = _move(stage.opponent, loss, factor)
        found |= {"opponent": loss.detach(), "opponent_norm": norm} | _detached(terms)
    loss, terms = stage.loss(rng, done)
    norm = _move(stage.optimizer, loss, factor)
    if torch.isfinite(norm):
        stage.after_step()
    progress.step += 1
    return found | {"loss": loss.detach(), "norm": norm} | _detached(terms)


def _move(optimizer: Optimizer, loss: Tensor, factor: float) -> Tensor:
    """Take one player's step at a share of its learning rates; return the gradients' norm."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(trained, MAX_NORM)
    if torch.isfinite(norm):  # one bad batch must not end a run of hours
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        optimizer.step()
    return norm


def _detached(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}
