"""Tunes what a receiver runs, taps and tails, on a finished encoder: no stream changes by a byte.

Ten minutes of it raised the top quality's AP from 0.337 to 0.351: the end of a run, where the
encoder stands still, is when a receiver learns best. Streams that are stored already gain too.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from cdvision.networks.initial_weights import load_mobilenet, load_nanodet
from cdvision.training.checkpoint import load_checkpoint
from cdvision.training.distillation import Teachers
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.recipe import WEIGHTS, Recipe
from cdvision.training.small import SmallTrainer

RATES = {
    "taps.nanodet_plus_m": 3e-4,
    "taps.mobilenet_v2": 2e-4,
    "tails.nanodet_plus_m": 8e-5,
    "tails.mobilenet_v2": 1e-5,
}
# High qualities are drawn more often: there the receiver, and not the rate, is what loses accuracy.
QUALITY_SHARES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.4, 1.4, 1.6)
WARMUP_STEPS = 50
MASKS = "masks."  # begins the names of the mask branch's weights


def tune_receiver(
    banks: Sequence[PhotoBank],
    weights: Path,
    run: Path,
    out: Path,
    *,
    minutes: float,
    batch: int,
    device: torch.device,
    seed: int = 0,
) -> None:
    """Tune taps and tails of a finished run and write the result as a run of its own.

    Args:
        banks: groups of decoded photos.
        weights: folder of the initial weights.
        run: folder of a finished run of `small`.
        out: folder for ``weights.safetensors`` and ``training.json``.
        minutes: how long.
        batch: crops a step.
        device: where to train.
        seed: of crops and qualities.
    """
    trainer, masks = _finished(weights, run, device)
    optimizer = _optimizer(trainer.model)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shares = np.array([bank.plan.share for bank in banks])
    started, steps = time.monotonic(), 0
    bar = tqdm(total=round(60 * minutes), unit="s", disable=None)
    while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
        image = banks[rng.choice(len(banks), p=shares / shares.sum())].batch(batch, rng)
        _schedule(optimizer, done, steps)
        _step(trainer, optimizer, image, rng)
        steps += 1
        bar.update(round(done * 60 * minutes) - bar.n)
    _write({**trainer.model.state_dict(), **masks}, run, out, minutes=minutes, steps=steps)


def _finished(
    weights: Path, run: Path, device: torch.device
) -> tuple[SmallTrainer, dict[str, Tensor]]:
    """Return a trainer whose model is the run's result, with all but the receiver frozen.

    The weights of a mask branch come beside it: they are kept, and not tuned. They were trained on
    the features of the receiver as it was, so `cdvision train masks` should follow.
    """
    teachers = Teachers(load_nanodet(weights), load_mobilenet(weights))
    trainer = SmallTrainer(teachers, Recipe(), device)
    load_checkpoint(run / "checkpoint.safetensors", trainer.modules(), trainer.optimizer)
    result = load_file(run / "weights.safetensors")
    masks = {name: result.pop(name) for name in list(result) if name.startswith(MASKS)}
    trainer.model.load_state_dict({name: value.float() for name, value in result.items()})
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(RATES)))
    return trainer, masks


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if name.startswith(prefix)],
            "lr": rate,
            "base_rate": rate,
        }
        for prefix, rate in RATES.items()
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)


def _schedule(optimizer: torch.optim.Optimizer, done: float, steps: int) -> None:
    factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor * min(1.0, (steps + 1) / WARMUP_STEPS)


def _step(
    trainer: SmallTrainer,
    optimizer: torch.optim.Optimizer,
    image: Tensor,
    rng: np.random.Generator,
) -> None:
    shares = np.array(QUALITY_SHARES) / sum(QUALITY_SHARES)
    quality = torch.from_numpy(rng.choice(len(shares), size=len(image), p=shares))
    terms = trainer.received_terms(image, quality.to(trainer.device))
    loss = sum((WEIGHTS[k] * v for k, v in terms.items()), torch.zeros((), device=trainer.device))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(
        [p for group in optimizer.param_groups for p in group["params"]], 60.0
    )
    if torch.isfinite(norm):
        optimizer.step()


def _write(tensors: dict[str, Tensor], run: Path, out: Path, *, minutes: float, steps: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().cpu().contiguous() for k, v in tensors.items()}
    save_file(state, out / "weights.safetensors")
    record: dict[str, Any] = json.loads((run / "training.json").read_text(encoding="utf-8"))
    record["receiver"] = {"minutes": minutes, "steps": steps}
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
