"""What the stages share that train a face model's own networks: pictures, attributes, reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.errors import CdvisionError
from cdvision.models.faces.attribute_head import with_basic_only
from cdvision.models.faces.training.attribute_scores import accuracies
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage

PERCEPTUAL_PART = 2  # one picture of so many is compared there: it costs more than drawing one
STANDARD_FACES = 512  # whose pooled features give the style head's input its scale
ROW_NOISE = 0.1  # added to rows before the head: what a codec's rounding will do to them


class FaceStage(Stage):
    """A stage of face networks, which are trained in place; they are its result."""

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        held_out: FaceBank,
        plan: Plan,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        self.networks = lay_out(networks, plan.device)
        self.bank, self.held_out, self.plan = bank, held_out, plan
        self.perceptual = None if perceptual is None else lay_out(perceptual, plan.device)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"networks": self.networks}

    def result(self) -> nn.Module:
        """Return the networks."""
        return self.networks

    def picture_errors(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Compare pictures (N, 3, R, R) in -1..1, some of them by the perceptual loss too."""
        terms = {"l1": (found - wanted).abs().mean(), "l2": (found - wanted).square().mean()}
        if self.perceptual is not None:
            part = -(-len(found) // PERCEPTUAL_PART)  # rounded up: one at least
            with self.plan.autocast():
                terms["perceptual"] = self.perceptual(found[:part], wanted[:part])
        return terms


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


def basic_rows(networks: FaceNetworks, rows: Tensor) -> Tensor:
    """Keep the basic rows of (N, rows, style) and put the mean style for the rest."""
    missing = networks.encoder.mean.expand(1, rows.shape[1], -1)
    return with_basic_only(rows, networks.widths.basic_rows, missing)


def attribute_losses(
    networks: FaceNetworks, rows: Tensor, attributes: Tensor, feature: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the cross-entropy of the attributes from the basic rows, and from all there is."""
    head, rows = networks.head, rows.float()
    rows = rows + ROW_NOISE * torch.randn_like(rows)
    return {
        "basic": F.binary_cross_entropy_with_logits(head(basic_rows(networks, rows)), attributes),
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
        found["basic"].append(networks.head(basic_rows(networks, codes.rows)))
        found["all"].append(networks.head(codes.rows, codes.feature))
    networks.train()
    truth = bank.attributes.cpu().numpy()
    return {name: accuracies(torch.cat(x).cpu().numpy(), truth) for name, x in found.items()}


@torch.no_grad()
def psnr_report(
    draw: Callable[[Tensor], dict[str, Tensor]], bank: FaceBank, plan: Plan
) -> dict[str, Any]:
    """Return the mean PSNR in dB of what ``draw`` makes of faces, both in 0..255, by its names."""
    found: dict[str, list[Tensor]] = {}
    for faces in bank.batches(plan.batch):
        images = channels_last(faces.images, plan.device)
        for name, picture in draw(images).items():
            error = F.mse_loss(picture, images, reduction="none").mean((1, 2, 3))
            # Of each picture: the logarithm of a mean error would be that of the worst ones.
            found.setdefault(name, []).append(10 * torch.log10(255**2 / error))
    return {name: round(float(torch.cat(parts).mean()), 3) for name, parts in found.items()}
