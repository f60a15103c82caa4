"""Stage 1: the RE networks alone, between a frozen front and (for feature losses) a frozen tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvision.models.dicm.training.distortions import L1_WEIGHT, feature_errors, mean_absolute_error
from cdvision.models.dicm.training.options import RedundancyOptions
from cdvision.models.dicm.training.rate_stage import RateStage, pixels_of
from cdvision.models.dicm.training.rates import ramp, rate_groups
from cdvision.models.dicm.training.redundancy_start import start_redundancy
from cdvision.training.photo_bank import PhotoBank, count_photos, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import RedundancyModel, as_module, freeze

START_CROPS = 80  # of each group of photos, from which a head start is computed
RATE_WEIGHT = 1.0  # the paper's; qualities spread around it


class RedundancyStage(RateStage):
    """Train RE with 128 mean|f1 - f2| + λ R(y1).

    Args:
        model: its RE networks and prior are trained in place; front and tail are frozen.
        banks: groups of photos, drawn by their shares.
        plan: length, batch, device.
        options: losses, rates, and whether to begin as principal components
            (``redundancy_start``): the rate then counts from the first step.
        qualities: of the model.
    """

    name = "redundancy"

    def __init__(
        self,
        model: RedundancyModel,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: RedundancyOptions | None = None,
        *,
        qualities: int = 8,
    ) -> None:
        self.options = options or RedundancyOptions()
        super().__init__(
            as_module(model),
            plan,
            qualities=qualities,
            rate_weight=RATE_WEIGHT,
            targets=self.options.targets,
        )
        self.model, self.banks = model, banks
        freeze(model.front, model.tail)
        groups = rate_groups(self.network, self.options.learning_rate)
        self.optimizer = torch.optim.Adam(groups, fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Set the start of a new run."""
        if self.options.head_start:
            batches = [draw_batch([bank], START_CROPS, rng) for bank in self.banks]
            least = min(batch.shape[3] for batch in batches)
            crops = torch.cat([batch[:, :, :least, :least] for batch in batches])
            start_redundancy(self.model, crops.to(self.plan.device))

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate of one batch."""
        image = self.draw_crops(self.banks, rng)
        quality = self.draw_qualities(len(image), rng)
        with self.plan.autocast():
            with torch.no_grad():
                features = self.model.front(image)
            sent = self.model.transmit(features, quality)
            terms = self._distortion(sent.features, features)
        weight = 1.0 if self.options.head_start else ramp(done)
        rate = weight * self.rate(sent.noisy_bits, sent.bits, quality, pixels_of(image))
        return torch.stack([*terms.values(), rate]).sum(), terms | {"rate": rate}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            "photos": count_photos(self.banks),
            "feature_losses": self.options.feature_losses,
            "head_start": self.options.head_start,
            **self.watched(),
        }

    def _distortion(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        if self.options.feature_losses:
            return feature_errors(self.model.tail, found, wanted)
        return {"l1": L1_WEIGHT * mean_absolute_error(found, wanted)}
