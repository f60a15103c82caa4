"""Stage 0: the backbone alone, MoCo v2 on semantic-guided crops, no labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.training.moco import EMBEDDING, MomentumContrast, ProjectionHead
from cdvision.models.dicm.training.options import ContrastiveOptions
from cdvision.models.dicm.training.views import ViewBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import Backbone, channels_last, lay_out, pool
from cdvision.training.stage import Stage

WEIGHT_DECAY = 1e-4


class ContrastiveStage(Stage):
    """Train front and tail with InfoNCE.

    Args:
        backbone: trained in place.
        bank: photos, without labels.
        plan: length, batch, device.
        channels: channels of the tail's last stage.
        options: negatives and learning rate.
    """

    name = "contrastive"

    def __init__(
        self,
        backbone: Backbone,
        bank: ViewBank,
        plan: Plan,
        options: ContrastiveOptions | None = None,
        *,
        channels: int,
    ) -> None:
        options = options or ContrastiveOptions()
        self.plan, self.bank = plan, bank
        self.backbone = lay_out(backbone, plan.device)
        self.backbone.train().requires_grad_(True)
        head = ProjectionHead(channels, EMBEDDING).to(plan.device)
        self.contrast = MomentumContrast(self.backbone, head, queue=options.queue).to(plan.device)
        trained = [*self.backbone.parameters(), *self.contrast.head.parameters()]
        rate = options.learning_rate * plan.batch / 256
        self.optimizer = torch.optim.SGD(trained, rate, momentum=0.9, weight_decay=WEIGHT_DECAY)
        self._key: Tensor | None = None

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"backbone": self.backbone, "contrast": self.contrast, "boxes": self.bank.boxes}

    def result(self) -> nn.Module:
        """Return the backbone."""
        return self.backbone

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE of two views of a batch."""
        if self.bank.boxes.due(done):
            self._refresh(done)
        views = self.bank.views(self.plan.batch, rng)
        first, second = (channels_last(view, self.plan.device) for view in views)
        with self.plan.autocast():
            query = self.contrast.query(pool(self.backbone(first)))
            self._key = self.contrast.key(second, lambda network, view, _: pool(network(view)))
            loss = self.contrast.loss(query, self._key)
        return loss, {"info_nce": loss}

    def after_step(self) -> None:
        """Move the slow encoder and the queue."""
        if self._key is not None:
            self.contrast.advance(self.backbone, self._key)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": len(self.bank.photos), "queue": len(self.contrast.queue.keys)}

    def _refresh(self, done: float) -> None:
        def last_stage(images: Tensor) -> Tensor:
            with self.plan.autocast():
                stage: Tensor = self.backbone(channels_last(images, self.plan.device))
            return stage

        self.backbone.eval()
        self.bank.refresh(last_stage, done)
        self.backbone.train()
