"""Stage 1: the RE networks alone, between a frozen front and (for feature losses) a frozen tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvision.models.dicm.codec import Redundancy
from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.models.dicm.training.distortions import L1_WEIGHT, feature_errors, mean_absolute_error
from cdvision.models.dicm.training.options import RedundancyOptions
from cdvision.models.dicm.training.rate_stage import CropStage
from cdvision.models.dicm.training.rates import rate_groups
from cdvision.models.dicm.training.redundancy_start import start_redundancy
from cdvision.training.photo_bank import PhotoBank, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import freeze

START_CROPS = 80  # of each group of photos, from which a head start is computed
RATE_WEIGHT = 1.0  # the paper's; qualities spread around it


class RedundancyStage(CropStage):
    """Train RE with 128 mean|f1 - f2| + λ R(y1); front and tail are frozen."""

    name = "redundancy"

    def __init__(
        self, model: Redundancy, banks: Sequence[PhotoBank], plan: Plan, options: RedundancyOptions
    ) -> None:
        # A head start uses its bits from the first step: the rate may count at once.
        ramped = not options.head_start
        super().__init__(
            model, banks, plan, rate_weight=RATE_WEIGHT, options=options, ramped=ramped
        )
        self.model, self.options = model, options
        freeze(model.front, model.tail)
        self.optimizer = torch.optim.Adam(rate_groups(model, options.learning_rate), fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Set the start of a new run."""
        if self.options.head_start:
            batches = [draw_batch([bank], START_CROPS, rng) for bank in self.banks]
            least = min(batch.shape[3] for batch in batches)
            crops = torch.cat([batch[:, :, :least, :least] for batch in batches])
            start_redundancy(self.model, crops.to(self.plan.device))

    def compare(self, image: Tensor, quality: Tensor) -> tuple[SentFeatures, dict[str, Tensor]]:
        """Return what arrives, and its errors against the front's features."""
        with torch.no_grad():
            features = self.model.front(image)
        sent = self.model.transmit(features, quality)
        if self.options.feature_losses:
            return sent, feature_errors(self.model.tail, sent.features, features)
        return sent, {"l1": L1_WEIGHT * mean_absolute_error(sent.features, features)}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        chosen = {name: getattr(self.options, name) for name in ("feature_losses", "head_start")}
        return super().record() | chosen
