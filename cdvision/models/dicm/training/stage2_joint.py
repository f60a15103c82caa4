"""Stage 2: backbone and RE together, contrastively or by distillation, under a rate penalty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.codec import Redundancy
from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.models.dicm.training.distortions import feature_errors, mean_absolute_error
from cdvision.models.dicm.training.moco import MomentumContrast
from cdvision.models.dicm.training.options import JointOptions
from cdvision.models.dicm.training.rate_stage import CropStage, RateStage, draw_qualities
from cdvision.models.dicm.training.rates import rate_groups
from cdvision.models.dicm.training.stage0_contrastive import contrastive_optimizer
from cdvision.models.dicm.training.views import ViewBank
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import Backbone, channels_last, freeze, pool, stages_of

RATE_WEIGHT, L1_WEIGHT = 0.1, 0.1


class JointStage(RateStage):
    """InfoNCE + 0.1 R(y1) + 0.1 mean|f1 - f2|, both views at the same quality."""

    name = "joint"

    def __init__(
        self, model: Redundancy, bank: ViewBank, plan: Plan, options: JointOptions, *, channels: int
    ) -> None:
        super().__init__(model, plan, rate_weight=RATE_WEIGHT, options=options)
        self.network.requires_grad_(True)
        self.model, self.bank = model, bank
        self.contrast = MomentumContrast(model, channels, queue=options.queue).to(plan.device)
        self.optimizer = contrastive_optimizer(model, self.contrast, plan, options.rate)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return super().modules() | {"contrast": self.contrast, "boxes": self.bank.boxes}

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrast, rate and filter error of one batch."""
        self.bank.refresh_if_due(Backbone(self.model.front, self.model.tail), self.plan, done)
        views = self.bank.views(self.plan.batch, rng)
        first, second = (channels_last(view, self.plan.device) for view in views)
        quality = draw_qualities(len(first), rng, self.plan.device)
        with self.plan.autocast():
            features = self.model.front(first)
            sent = self.model.transmit(features, quality)
            query = self.contrast.query(pool(stages_of(self.model.tail, sent.features)[-1]))
            # Keys are shuffled: each part of them takes the qualities of its own photos.
            key = self.contrast.key(second, lambda n, v, at: _pooled(n, v, quality[at]))
            contrast = self.contrast.loss(query, key)
            filtered = L1_WEIGHT * mean_absolute_error(sent.features, features)
        rate = self.price(sent, quality, first)
        return contrast + rate + filtered, {"info_nce": contrast, "rate": rate, "l1": filtered}

    def after_step(self) -> None:
        """Move the slow network and the queue."""
        self.contrast.advance(self.network)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": len(self.bank.photos), **self.watched()}


class DistillationStage(CropStage):
    """Stage 2 from pretrained weights: the stages behind f2 against the network that it began as.

    Replaces InfoNCE, needs no queue, no views and no long schedule, and loses what is learned
    beyond the pretrained network: the laptop-scale option.
    """

    name = "joint by distillation"

    def __init__(
        self, model: Redundancy, banks: Sequence[PhotoBank], plan: Plan, options: JointOptions
    ) -> None:
        # The distortion is normalised as in stage 1 with feature losses, and so is the rate.
        super().__init__(model, banks, plan, rate_weight=1.0, options=options, ramped=False)
        self.network.requires_grad_(True)
        self.model = model
        self.teacher = Backbone(copy.deepcopy(model.front), copy.deepcopy(model.tail))
        freeze(self.teacher)
        # Batch statistics stay: the receiver's tail sees decoded features at any quality.
        model.front.eval()
        model.tail.eval()
        self.optimizer = torch.optim.Adam(rate_groups(model, options.rate), fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds; the teacher is what the run began as."""
        return super().modules() | {"teacher": self.teacher}

    def compare(self, image: Tensor, quality: Tensor) -> tuple[SentFeatures, dict[str, Tensor]]:
        """Return what arrives, and errors of f2 and of every stage against the teacher."""
        with torch.no_grad():
            wanted = self.teacher.front(image)
            stages = stages_of(self.teacher.tail, wanted)
        sent = self.model.transmit_image(image, quality)
        return sent, feature_errors(self.model.tail, sent.features, wanted, stages)


def _pooled(network: nn.Module, view: Tensor, quality: Tensor) -> Tensor:
    """Pooled features of views as a receiver computes them, by the slow copy of the model."""
    model = cast(Redundancy, network)
    return pool(stages_of(model.tail, model.transmit_image(view, quality).features)[-1])
