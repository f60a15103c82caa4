"""Fine-tunes the encoder's trunk and style head on attributes, before any picture is drawn.

The base layer of a face stream holds the first W+ rows only, so the attributes must live there:
the loss asks the attribute head for them with the other rows replaced by the mean style, and again
with all rows. F joins in the next stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.models.faces.attribute_head import with_basic_only
from cdvision.models.faces.training.attribute_scores import balanced_accuracy, mean_accuracy
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import TrunkOptions
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage

WEIGHT_DECAY = 0.02
STANDARD_FACES = 512  # whose pooled features give the style head's input its scale
ROW_NOISE = 0.1  # added to rows before the head: what a codec's rounding will do to them


class TrunkStage(Stage):
    """Train ``networks.encoder`` (F's head apart) and ``networks.head`` on attributes.

    Args:
        networks: trained in place.
        bank: training faces with attributes.
        held_out: faces to measure on.
        plan: length, batch, device.
        options: learning rates.
    """

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
        options = options or TrunkOptions()
        self.networks, self.bank, self.held_out, self.plan = networks, bank, held_out, plan
        lay_out(networks, plan.device).train()
        encoder = networks.encoder
        trunk = list(encoder.trunk.parameters())
        heads = [p for part in (encoder.hidden, encoder.styles, networks.head)
                 for p in part.parameters()]  # fmt: skip
        groups = [
            {"params": trunk, "lr": options.trunk_rate},
            {"params": heads, "lr": options.learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def begin(self, rng: np.random.Generator) -> None:
        """Give the style head standardised inputs, and the rows the generator's mean style."""
        standardise(self.networks, self.bank, self.plan, feature=False)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"networks": self.networks}

    def result(self) -> nn.Module:
        """Return the networks."""
        return self.networks

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


def require_attributes(bank: FaceBank, networks: FaceNetworks) -> None:
    """Refuse labels that the head cannot answer."""
    expected = networks.widths.attributes
    if len(bank.names) != expected:
        raise CdvisionError(
            f"expected {expected} attributes for every face (--labels), found {len(bank.names)}"
        )


def standardise(networks: FaceNetworks, bank: FaceBank, plan: Plan, *, feature: bool) -> None:
    """Give new heads the scale of their inputs, and the encoder the generator's mean style."""
    encoder, parts = networks.encoder, torch.split(bank.images[:STANDARD_FACES], plan.batch)
    faces = (channels_last(part.float(), plan.device) for part in parts)
    encoder.standardise(faces, feature=feature)
    with torch.no_grad():
        encoder.mean.copy_(networks.generator.mapping.mean)


def attribute_losses(
    networks: FaceNetworks, rows: Tensor, attributes: Tensor, feature: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the cross-entropy of the attributes from the basic rows, and from all there is."""
    head = networks.head
    rows = rows.float()
    rows = rows + ROW_NOISE * torch.randn_like(rows)
    missing = networks.encoder.mean.expand(1, rows.shape[1], -1)
    basic = with_basic_only(rows, networks.widths.basic_rows, missing)
    return {
        "basic": F.binary_cross_entropy_with_logits(head(basic), attributes),
        "all": F.binary_cross_entropy_with_logits(head(rows, feature), attributes),
    }


@torch.no_grad()
def attribute_report(
    networks: FaceNetworks, bank: FaceBank, plan: Plan
) -> dict[str, dict[str, float]]:
    """Measure attributes from uncoded rows: mean and balanced accuracy at probability one half."""
    networks.eval()
    found: dict[str, list[Tensor]] = {"basic": [], "all": []}
    for faces in bank.batches(plan.batch):
        codes = networks.encoder(channels_last(faces.images, plan.device))
        missing = networks.encoder.mean.expand(1, codes.rows.shape[1], -1)
        basic = with_basic_only(codes.rows, networks.widths.basic_rows, missing)
        found["basic"].append(networks.head(basic))
        found["all"].append(networks.head(codes.rows, codes.feature))
    networks.train()
    truth = bank.attributes.cpu().numpy()
    report = {}
    for name, parts in found.items():
        logits = torch.cat(parts).cpu().numpy()
        report[name] = {
            "mean_accuracy": round(mean_accuracy(logits, truth), 4),
            "balanced_accuracy": round(balanced_accuracy(logits, truth), 4),
        }
    return report
