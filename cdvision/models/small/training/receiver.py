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

from cdvision.models.small.training.distillation import weighted_sum
from cdvision.models.small.training.map_stage import DistilledStage, fill_small
from cdvision.training.finished import Finished
from cdvision.training.learning_rates import factor_of, group_by_rate
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan

# Learning rate of each part, by how its parameters' names begin.
RATES = {"taps.nanodet_plus_m": 3e-4, "tails.nanodet_plus_m": 8e-5}
# High qualities are drawn more often: there the receiver, and not the rate, is what loses accuracy.
QUALITY_SHARES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.4, 1.4, 1.6)


class ReceiverStage(DistilledStage):
    """Trains taps and tails of a finished model, everything else frozen.

    ``start`` may be a run of `cdvision train masks`, too. Raises CdvisionError where it is of
    another network.
    """

    name = "receiver"

    def __init__(
        self, weights: Path, start: Finished, banks: Sequence[PhotoBank], plan: Plan
    ) -> None:
        super().__init__(weights, banks, plan)
        self.start, self.masks = start, fill_small(self.model, start)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(tuple(RATES)))
        groups = group_by_rate(self.model, lambda name: factor_of(name, RATES))
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Take over metric and multipliers, or measure them."""
        self.restore(self.start, self.draw_start(rng))
        self.average.restart(self.model)

    def result(self) -> nn.Module:
        """Return the averaged model, with the mask branch that the start had."""
        if not self.masks:
            return self.average.network
        # The branch has learned from the old features: `cdvision train masks` should follow.
        whole = copy.deepcopy(self.average.network)
        whole.add_masks()
        whole.load_state_dict({**whole.state_dict(), **self.masks})
        return whole

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare what arrives of one batch with what the uncompressed networks make of it."""
        image = self.draw_crops(rng)
        terms = self.compare(image, draw_quality(len(image), rng).to(self.plan.device))[1]
        return weighted_sum(terms), terms

    def record(self) -> dict[str, Any]:
        """Return facts for the card: also those of the run that was tuned."""
        return {**super().record(), "tuned": self.start.record}


def draw_quality(size: int, rng: np.random.Generator) -> Tensor:
    """Draw (size,) int64 qualities, 0 to 7, by their shares."""
    shares = np.array(QUALITY_SHARES) / sum(QUALITY_SHARES)
    return torch.from_numpy(rng.choice(len(shares), size=size, p=shares))
