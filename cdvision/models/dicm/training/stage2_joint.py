"""Stage 2: backbone and RE together, contrastively or by distillation, under a rate penalty."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.training.distortions import feature_errors, mean_absolute_error
from cdvision.models.dicm.training.moco import EMBEDDING, MomentumContrast, ProjectionHead
from cdvision.models.dicm.training.options import JointOptions
from cdvision.models.dicm.training.rate_stage import RateStage, pixels_of
from cdvision.models.dicm.training.rates import rate_groups
from cdvision.models.dicm.training.views import ViewBank
from cdvision.training.photo_bank import PhotoBank, count_photos
from cdvision.training.plan import Plan
from cdvision.training.protocols import (
    Backbone,
    RedundancyModel,
    as_module,
    channels_last,
    freeze,
    pool,
    stages_of,
)

RATE_WEIGHT, L1_WEIGHT = 0.1, 0.1
WEIGHT_DECAY = 1e-4


class JointStage(RateStage):
    """InfoNCE + 0.1 R(y1) + 0.1 mean|f1 - f2|, both views at the same quality."""

    name = "joint"

    def __init__(
        self,
        model: RedundancyModel,
        bank: ViewBank,
        plan: Plan,
        options: JointOptions | None = None,
        *,
        channels: int,
        qualities: int = 8,
    ) -> None:
        options = options or JointOptions()
        super().__init__(
            as_module(model),
            plan,
            qualities=qualities,
            rate_weight=RATE_WEIGHT,
            targets=options.targets,
        )
        self.network.requires_grad_(True)
        self.model, self.bank = model, bank
        head = ProjectionHead(channels, EMBEDDING).to(plan.device)
        self.contrast = MomentumContrast(self.network, head, queue=options.queue).to(plan.device)
        trained = [*self.network.parameters(), *self.contrast.head.parameters()]
        rate = options.rate * plan.batch / 256  # the rate is that of 256 photos a step
        self.optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
        self._key: Tensor | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return super().modules() | {"contrast": self.contrast, "boxes": self.bank.boxes}

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrast, rate and filter error of one batch."""
        if self.bank.boxes.due(done):
            self._refresh(done)
        views = self.bank.views(self.plan.batch, rng)
        first, second = (channels_last(view, self.plan.device) for view in views)
        quality = self.draw_qualities(len(first), rng)
        with self.plan.autocast():
            features = self.model.front(first)
            sent = self.model.transmit(features, quality)
            query = self.contrast.query(pool(stages_of(self.model.tail, sent.features)[-1]))
            self._key = self.contrast.key(second, lambda n, v, at: _pooled(n, v, quality[at]))
            contrast = self.contrast.loss(query, self._key)
            filtered = L1_WEIGHT * mean_absolute_error(sent.features, features)
        rate = self.rate(sent.noisy_bits, sent.bits, quality, pixels_of(first))
        terms = {"info_nce": contrast, "rate": rate, "l1": filtered}
        return contrast + rate + filtered, terms

    def after_step(self) -> None:
        """Move the slow network and the queue."""
        if self._key is not None:
            self.contrast.advance(self.network, self._key)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": len(self.bank.photos), **self.watched()}

    def _refresh(self, done: float) -> None:
        backbone = Backbone(self.model.front, self.model.tail)

        def last_stage(images: Tensor) -> Tensor:
            with self.plan.autocast():
                stage: Tensor = backbone(channels_last(images, self.plan.device))
            return stage

        self.network.eval()
        self.bank.refresh(last_stage, done)
        self.network.train()


class DistillationStage(RateStage):
    """Stage 2 from pretrained weights: the stages behind f2 against the network that it began as.

    Replaces InfoNCE, needs no queue, no views and no long schedule, and loses what is learned
    beyond the pretrained network: the laptop-scale option.
    """

    name = "joint by distillation"

    def __init__(
        self,
        model: RedundancyModel,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: JointOptions | None = None,
        *,
        qualities: int = 8,
    ) -> None:
        options = options or JointOptions(distil=True)
        # The distortion is normalised as in stage 1 with feature losses, and so is the rate.
        super().__init__(
            as_module(model), plan, qualities=qualities, rate_weight=1.0, targets=options.targets
        )
        self.network.requires_grad_(True)
        self.model, self.banks = model, banks
        self.teacher = Backbone(copy.deepcopy(model.front), copy.deepcopy(model.tail))
        freeze(self.teacher)
        # Batch statistics stay: the receiver's tail sees decoded features at any quality.
        model.front.eval()
        model.tail.eval()
        self.optimizer = torch.optim.Adam(rate_groups(self.network, options.rate), fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds; the teacher is what the run began as."""
        return super().modules() | {"teacher": self.teacher}

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of f2 and of every stage against the teacher, and the rate."""
        image = self.draw_crops(self.banks, rng)
        quality = self.draw_qualities(len(image), rng)
        with self.plan.autocast():
            with torch.no_grad():
                wanted = self.teacher.front(image)
                stages = stages_of(self.teacher.tail, wanted)
            sent = self.model.transmit(self.model.front(image), quality)
            terms = feature_errors(self.model.tail, sent.features, wanted, stages)
        rate = self.rate(sent.noisy_bits, sent.bits, quality, pixels_of(image))
        return torch.stack([*terms.values(), rate]).sum(), terms | {"rate": rate}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": count_photos(self.banks), **self.watched()}


def _pooled(network: nn.Module, view: Tensor, quality: Tensor) -> Tensor:
    """Pooled features of views as a receiver computes them, by the slow copy of the model."""
    model = cast(RedundancyModel, network)
    sent = model.transmit(model.front(view), quality)
    return pool(stages_of(model.tail, sent.features)[-1])
