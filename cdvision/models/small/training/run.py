"""A run of `small`: initialise or resume, train until the time is spent, write the result.

Nothing here needs labels: the targets are what the uncompressed networks compute for the photo.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from cdvision.models.small.nanodet_weights import load_nanodet
from cdvision.models.small.network import Small
from cdvision.models.small.training.distillation import Teacher
from cdvision.models.small.training.finished_run import (
    finished_weights,
    restore_metric,
    restore_multipliers,
)
from cdvision.models.small.training.initialise import initialise_small
from cdvision.models.small.training.map_stage import SmallTrainer
from cdvision.models.small.training.recipe import Recipe
from cdvision.networks.initial_weights import load_mobilenet_embedding
from cdvision.training.checkpoint import load_checkpoint, save_checkpoint
from cdvision.training.hyper_start import start_hyper
from cdvision.training.latent_start import start_prediction
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.rate_control import TARGET_BYTES
from cdvision.training.stage_run import read_record

LOG_EVERY = 50
START_BATCHES, START_SIZE = 3, 16  # of each group of photos, from which a start is computed


def train_small(
    banks: Sequence[PhotoBank],
    weights: Path,
    out: Path,
    recipe: Recipe,
    device: torch.device,
    start: Path | None = None,
) -> Small:
    """Train, or resume, until the recipe's minutes are spent; return the averaged model.

    Args:
        banks: groups of decoded photos.
        weights: folder of the initial weights.
        out: folder of the checkpoint and the log; a checkpoint found there is resumed.
        recipe: lengths, sizes and rates.
        device: where to train.
        start: folder of a finished run to go on from, with the whole schedule anew. Default:
            start from a linear code.

    Raises:
        CdvisionError: ``start`` is no finished run of `small`.
    """
    torch.manual_seed(recipe.seed)
    trainer = SmallTrainer(Teacher(*load_nanodet(weights)), recipe, device)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.is_file():
        trainer.progress = load_checkpoint(checkpoint, trainer.modules(), trainer.optimizer)
    else:
        rng = np.random.default_rng(recipe.seed)
        images = [bank.batch(START_SIZE, rng) for bank in banks for _ in range(START_BATCHES)]
        if start is None:
            _start(trainer, images, weights)
        else:
            _go_on(trainer, images, start)
        trainer.average.load_state_dict(trainer.model.state_dict())
    _loop(trainer, banks, out)
    _write_result(trainer, banks, out, start)
    return trainer.average


def _start(trainer: SmallTrainer, images: list[Tensor], weights: Path) -> None:
    """Begin with the best linear code of what the detector computes for some images."""
    model = trainer.model
    trainer.sensitivity.measure(trainer.teacher, images)
    initialise_small(model, trainer.teacher, trainer.sensitivity, images)
    _copy_classifier(model, weights)
    with torch.no_grad():
        features = [model.encoder.features(batch) for batch in images[::START_BATCHES]]
    start_prediction(model, features)
    start_hyper(model, features)


def _go_on(trainer: SmallTrainer, images: list[Tensor], start: Path) -> None:
    """Begin with what a finished run has reached, and with the multipliers that it found."""
    read_record(start)
    trainer.model.load_state_dict(finished_weights(start)[0])
    if not restore_metric(trainer.sensitivity, start):
        trainer.sensitivity.measure(trainer.teacher, images)
    restore_multipliers(trainer.rate, start)


def _copy_classifier(model: Small, weights: Path) -> None:
    network, last = load_mobilenet_embedding(weights)
    model.descriptor.network.load_state_dict(network.state_dict())
    model.classifier_tail.load_state_dict(last.state_dict())


def _write_result(
    trainer: SmallTrainer, banks: Sequence[PhotoBank], out: Path, start: Path | None
) -> None:
    """Write the averaged weights in half precision, and what a card says of the training."""
    state = trainer.average.state_dict()
    save_file(
        {k: v.half().cpu().contiguous() for k, v in state.items()}, out / "weights.safetensors"
    )
    record: dict[str, Any] = {
        "recipe": asdict(trainer.recipe),
        "steps": trainer.progress.step,
        "device": trainer.device.type,
        "photos": sum(len(bank.photos) for bank in banks),
        "crops": trainer.progress.step * trainer.recipe.batch,
        "target_bytes": TARGET_BYTES,
    }
    if start is not None:
        record["start"] = read_record(start)
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _loop(trainer: SmallTrainer, banks: Sequence[PhotoBank], out: Path) -> None:
    recipe, progress = trainer.recipe, trainer.progress
    rng = np.random.default_rng((recipe.seed, progress.step))
    shares = np.array([bank.plan.share for bank in banks])
    budget, saved = 60 * recipe.minutes, progress.seconds
    log: list[dict[str, float]] = []
    bar = tqdm(total=round(budget), initial=round(progress.seconds), unit="s", disable=None)
    while progress.seconds < budget:
        started = time.perf_counter()
        bank = banks[rng.choice(len(banks), p=shares / shares.sum())]
        log.append(trainer.step(bank.batch(recipe.batch, rng), rng))
        progress.seconds += time.perf_counter() - started
        bar.update(round(progress.seconds) - bar.n)
        if progress.step % LOG_EVERY == 0:
            _write_log(out, trainer, log)
            log = []
        if progress.seconds - saved > 60 * recipe.save_minutes:
            save_checkpoint(
                out / "checkpoint.safetensors", trainer.modules(), trainer.optimizer, progress
            )
            saved = progress.seconds
    save_checkpoint(out / "checkpoint.safetensors", trainer.modules(), trainer.optimizer, progress)


def _write_log(out: Path, trainer: SmallTrainer, log: Sequence[dict[str, float]]) -> None:
    record = {
        "step": trainer.progress.step,
        "seconds": round(trainer.progress.seconds, 1),
        "bytes": [round(r) for r in trainer.rate.rates()],
        **{key: round(float(np.mean([step[key] for step in log])), 4) for key in log[0]},
    }
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
