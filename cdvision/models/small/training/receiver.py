"""Tunes what a receiver runs, taps and tails, on a finished encoder: no stream changes by a byte.

Ten minutes of it raised the top quality's AP from 0.337 to 0.351: the end of a run, where the
encoder stands still, is when a receiver learns best. Streams that are stored already gain too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.small.nanodet_weights import load_nanodet
from cdvision.models.small.network import Small
from cdvision.models.small.training.distillation import Teacher
from cdvision.models.small.training.finished_run import (
    finished_weights,
    restore_metric,
    restore_multipliers,
)
from cdvision.models.small.training.map_stage import SmallTrainer
from cdvision.models.small.training.recipe import WEIGHTS, Recipe
from cdvision.models.small.training.run import START_BATCHES, START_SIZE
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.stage_run import Plan, Stage, read_record
from cdvision.training.weight_average import WeightAverage

RATES = {
    "taps.nanodet_plus_m": 3e-4,
    "tails.nanodet_plus_m": 8e-5,
}
"""Learning rate of each part, by how its parameters' names begin."""
# High qualities are drawn more often: there the receiver, and not the rate, is what loses accuracy.
QUALITY_SHARES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.4, 1.4, 1.6)


class ReceiverStage(Stage):
    """Taps and tails of a finished run, everything else frozen.

    Args:
        weights: folder of the initial weights.
        run: folder of a finished run of `small`.
        banks: groups of decoded photos.
        plan: how long and where.
    """

    name = "receiver"

    def __init__(self, weights: Path, run: Path, banks: Sequence[PhotoBank], plan: Plan) -> None:
        self.finished = read_record(run)
        self.trainer, self.masks = _finished(weights, run, plan.device)
        if not restore_metric(self.trainer.sensitivity, run):
            _measure_metric(self.trainer, banks, plan.seed)
        restore_multipliers(self.trainer.rate, run)
        self.model: Small = self.trainer.model
        self.average = WeightAverage(self.model)
        self.optimizer = torch.optim.Adam(
            _groups(self.model), betas=(0.9, 0.99), eps=1e-12, fused=True
        )
        self.banks, self.plan = banks, plan
        shares = np.array([bank.plan.share for bank in banks])
        self.shares = shares / shares.sum()

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds, and what a run that goes on from here needs."""
        kept = {"sensitivity": self.trainer.sensitivity, "rate": self.trainer.rate}
        return {"model": self.model, "average": self.average, **kept}

    def result(self) -> nn.Module:
        """Return the averaged model, with the mask branch that the run had.

        The branch was trained on the features of the receiver as it was, so `cdvision train masks`
        should follow.
        """
        if not self.masks:
            return self.average.network
        whole = copy.deepcopy(self.average.network)
        whole.add_masks()
        whole.load_state_dict({**whole.state_dict(), **self.masks})
        return whole

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare what arrives of one batch with what the uncompressed networks make of it."""
        bank = self.banks[rng.choice(len(self.banks), p=self.shares)]
        image = bank.batch(self.plan.batch, rng)
        shares = np.array(QUALITY_SHARES) / sum(QUALITY_SHARES)
        quality = torch.from_numpy(rng.choice(len(shares), size=len(image), p=shares))
        terms = self.trainer.received_terms(image, quality.to(self.plan.device))
        zero = torch.zeros((), device=self.plan.device)
        return sum((WEIGHTS[k] * v for k, v in terms.items()), zero), terms

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.model)

    def record(self) -> dict[str, Any]:
        """Return facts for the card: also those of the run that was tuned."""
        return {"photos": sum(len(bank.photos) for bank in self.banks), "tuned": self.finished}


def _finished(
    weights: Path, run: Path, device: torch.device
) -> tuple[SmallTrainer, dict[str, Tensor]]:
    """Return a trainer whose model is the run's result, with all but the receiver frozen.

    The run may be one of `cdvision train masks`, too: the weights of a mask branch come beside the
    trainer, they are kept, and not tuned.
    """
    trainer = SmallTrainer(Teacher(*load_nanodet(weights)), Recipe(), device)
    result, masks = finished_weights(run)
    trainer.model.load_state_dict(result)
    for name, parameter in trainer.model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(RATES)))
    return trainer, masks


def _measure_metric(trainer: SmallTrainer, banks: Sequence[PhotoBank], seed: int) -> None:
    """Measure the metric anew, the same one whenever a run is resumed."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = [bank.batch(START_SIZE, rng) for bank in banks for _ in range(START_BATCHES)]
    trainer.sensitivity.measure(trainer.teacher, images)


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Group what is trained by its learning rate."""
    return [
        {
            "params": [p for name, p in model.named_parameters() if name.startswith(prefix)],
            "lr": rate,
        }
        for prefix, rate in RATES.items()
    ]
