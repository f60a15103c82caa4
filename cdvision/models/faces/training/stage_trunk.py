"""Fine-tunes the encoder's trunk and style head on attributes, before any picture is drawn.

The base layer of a face stream holds the first W+ rows only, so the attributes must live there:
the loss asks the attribute head for them with the other rows replaced by the mean style, and again
with all rows. F joins in the next stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.face_stage import (
    FaceStage,
    attribute_losses,
    attribute_report,
    require_attributes,
    standardise,
)
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import TrunkOptions
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last

WEIGHT_DECAY = 0.02


class TrunkStage(FaceStage):
    """Train ``networks.encoder`` (F's head apart) and ``networks.head`` on attributes."""

    name = "faces-trunk"

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        held_out: FaceBank,
        plan: Plan,
        options: TrunkOptions | None = None,
    ) -> None:
        require_attributes(bank, networks)
        super().__init__(networks, bank, held_out, plan)
        networks.train()
        options, encoder = options or TrunkOptions(), networks.encoder
        heads = (encoder.hidden, encoder.styles, networks.head)
        groups = [
            {"params": list(encoder.trunk.parameters()), "lr": options.trunk_rate},
            {"params": [p for head in heads for p in head.parameters()],
             "lr": options.learning_rate},
        ]  # fmt: skip
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def begin(self, rng: np.random.Generator) -> None:
        """Give the style head standardised inputs, and the rows the generator's mean style."""
        standardise(self.networks, self.bank, self.plan, feature=False)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of the attributes, from the basic rows and from all."""
        faces = self.bank.batch(self.plan.batch, rng, vary=True)
        encoder = self.networks.encoder
        with self.plan.autocast():
            stages = encoder.trunk(channels_last(faces.images, self.plan.device))
            rows = encoder.rows(encoder.pool(stages))
        terms = attribute_losses(self.networks, rows, faces.attributes)
        return torch.stack(list(terms.values())).sum(), terms

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            **self.networks.facts(),
            "faces": len(self.bank.images),
            "attributes": list(self.bank.names),
            "held_out": attribute_report(self.networks, self.held_out, self.plan),
        }
