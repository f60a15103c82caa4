"""Stage 0: the backbone alone, MoCo v2 on semantic-guided crops, no labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.training.moco import MomentumContrast
from cdvision.models.dicm.training.options import ContrastiveOptions
from cdvision.models.dicm.training.views import ViewBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import Backbone, channels_last, lay_out, pool
from cdvision.training.stage import Stage


class ContrastiveStage(Stage):
    """Train front and tail, whose last stage has ``channels``, with InfoNCE."""

    name = "contrastive"

    def __init__(
        self,
        backbone: Backbone,
        bank: ViewBank,
        plan: Plan,
        options: ContrastiveOptions,
        *,
        channels: int,
    ) -> None:
        self.plan, self.bank = plan, bank
        self.backbone = lay_out(backbone, plan.device)
        self.backbone.train().requires_grad_(True)
        self.contrast = MomentumContrast(backbone, channels, queue=options.queue).to(plan.device)
        self.optimizer = contrastive_optimizer(backbone, self.contrast, plan, options.learning_rate)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"backbone": self.backbone, "contrast": self.contrast, "boxes": self.bank.boxes}

    def result(self) -> nn.Module:
        """Return the backbone."""
        return self.backbone

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of two views of a batch."""
        self.bank.refresh_if_due(self.backbone, self.plan, done)
        views = self.bank.views(self.plan.batch, rng)
        first, second = (channels_last(view, self.plan.device) for view in views)
        with self.plan.autocast():
            query = self.contrast.query(pool(self.backbone(first)))
            key = self.contrast.key(second, lambda network, view, _: pool(network(view)))
            loss = self.contrast.loss(query, key)
        return loss, {"info_nce": loss}

    def after_step(self) -> None:
        """Move the slow encoder and the queue."""
        self.contrast.advance(self.backbone)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": len(self.bank.photos), "queue": len(self.contrast.queue.keys)}


def contrastive_optimizer(
    encoder: nn.Module, contrast: MomentumContrast, plan: Plan, learning_rate: float
) -> torch.optim.Optimizer:
    """Return MoCo's SGD for an encoder and its head, at the rate for 256 photos a step."""
    trained = [*encoder.parameters(), *contrast.head.parameters()]
    # Twice the photos halve the variance of a gradient, which allows steps twice as long.
    rate = learning_rate * plan.batch / 256
    return torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=1e-4)
