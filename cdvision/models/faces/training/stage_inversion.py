"""The inversion stage: images to S and F, from which the generator draws them again.

::

    training face ──┐                       ┌─ basic rows, the mean for the rest ─┐
    drawn face ─────┴─ encoder ─▶ S, F ─────┼─ all rows ──────────────────────────┼─ picture
    (known rows)                            └─ all rows and F ────────────────────┘

Each step draws the pictures of one of the three layers of a stream, so that each is worth looking
at. ``tune_generator`` lets the generator learn as well: without a GPU for adversarial training it
is all that the generator ever learns from, and its faces are as smooth as that makes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.attribute_head import with_basic_only
from cdvision.models.faces.inversion_encoder import InversionCodes
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import InversionOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.stage_trunk import (
    attribute_losses,
    attribute_report,
    require_attributes,
    standardise,
)
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage

PERCEPTUAL_PART = 2  # one picture of so many is compared there: it costs more than drawing one
FAINT = 0.1  # of the RGB weights that adversarial training likes; they paint far outside -1..1
LAYERS, SHARES = ("basic", "rows", "feature"), (0.15, 0.4, 0.45)
WEIGHTS = {"l1": 2.0, "l2": 2.0, "perceptual": 0.5, "feature": 0.05, "attributes": 0.5, "rows": 1.0}


class InversionStage(Stage):
    """Train ``networks.encoder`` and ``networks.head`` (and the generator, on request).

    Args:
        networks: trained in place.
        bank: training faces with attributes.
        held_out: faces to measure on.
        plan: length, batch, device.
        perceptual: the perceptual distance; None leaves it out, which makes steps far cheaper.
        options: what is trained, how fast, and on what.
    """

    name = "faces-inversion"

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        held_out: FaceBank,
        plan: Plan,
        perceptual: PerceptualLoss | None = None,
        options: InversionOptions | None = None,
    ) -> None:
        require_attributes(bank, networks)
        self.networks, self.bank, self.held_out, self.plan = networks, bank, held_out, plan
        self.options = options or InversionOptions()
        lay_out(networks, plan.device).train()
        self.perceptual = None if perceptual is None else lay_out(perceptual, plan.device)
        self.optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))

    def begin(self, rng: np.random.Generator) -> None:
        """Set the scales of heads that are new, and make a new generator paint faintly."""
        standardise(self.networks, self.bank, self.plan, feature=True)
        generator = self.networks.generator
        if self.options.tune_generator and not generator.mapping.mean.any():
            with torch.no_grad():
                for block in generator.layers():
                    block.rgb.conv.weight.mul_(FAINT)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"networks": self.networks}

    def result(self) -> nn.Module:
        """Return the networks."""
        return self.networks

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of pictures, codes and attributes of one batch, and of one layer."""
        count = round(self.options.drawn * self.plan.batch)
        faces = self.bank.batch(self.plan.batch - count, rng)
        drawn, known = self._draw(count)
        images = channels_last(torch.cat([faces.images, drawn]), self.plan.device)
        layer = str(rng.choice(LAYERS, p=SHARES))
        with self.plan.autocast():
            codes = self.networks.encoder(images)
            picture, feature_error = self._picture(codes, layer)
        terms = self._picture_errors(picture.float(), images / 127.5 - 1)
        terms["attributes"] = self._attribute_error(codes, faces.attributes)
        if feature_error is not None:
            terms["feature"] = feature_error
        if count:
            terms["rows"] = (codes.rows[-count:].float() - known).square().mean()
        loss = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
        return loss, terms | {f"l1_{layer}": terms["l1"]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            **self.networks.facts(),
            "faces": len(self.bank.images),
            "attributes": list(self.bank.names),
            "tune_generator": self.options.tune_generator,
            "drawn": self.options.drawn,
            "perceptual": self.perceptual is not None,
            "rates": self.options.rates,
            "weights": WEIGHTS,
            "held_out": attribute_report(self.networks, self.held_out, self.plan)
            | {"psnr": psnr_report(self.networks, self.held_out, self.plan)},
        }

    def _attribute_error(self, codes: InversionCodes, attributes: Tensor) -> Tensor:
        """Return the error of the attributes of the training faces, which come first."""
        count = len(attributes)
        rows, feature = codes.rows[:count], codes.feature[:count].float()
        errors = attribute_losses(self.networks, rows, attributes, feature)
        return torch.stack(list(errors.values())).sum()

    def _groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups; what has no group is frozen."""
        networks, rates = self.networks, self.options.rates
        encoder = networks.encoder
        heads = [encoder.hidden, encoder.styles, encoder.feature, networks.head]
        parts: dict[str, list[nn.Module]] = {
            "trunk": [encoder.trunk], "heads": heads, "generator": [networks.generator],
        }  # fmt: skip
        groups = []
        for name, modules in parts.items():
            parameters = [p for module in modules for p in module.parameters()]
            for parameter in parameters:
                parameter.requires_grad_(rates[name] > 0)
            if rates[name] > 0:
                groups.append({"params": parameters, "lr": rates[name]})
        return groups

    @torch.no_grad()
    def _draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw faces with known rows: (count, 3, R, R) in 0..255 and (count, rows, style)."""
        generator, widths = self.networks.generator, self.networks.widths
        z = torch.randn(count, widths.style, device=self.plan.device)
        rows = generator.broadcast(generator.mapping(z))
        if not count:
            return z.new_zeros(0, 3, widths.resolution, widths.resolution), rows
        images = (generator.synthesise(rows) + 1) * 127.5
        return images.clamp(0, 255).round(), rows

    def _picture(self, codes: InversionCodes, layer: str) -> tuple[Tensor, Tensor | None]:
        """Draw one layer's pictures; with F, also tell how far it is from the generator's own."""
        generator, rows = self.networks.generator, codes.rows
        if layer == "feature":
            own = generator.activation(rows)
            error = (codes.feature - own).float().square().mean()
            return generator.synthesise(rows, codes.feature), error
        if layer == "basic":
            rows = basic_rows(self.networks, rows)
        return generator.synthesise(rows), None

    def _picture_errors(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        terms = {"l1": (found - wanted).abs().mean(), "l2": (found - wanted).square().mean()}
        if self.perceptual is not None:
            half = -(-len(found) // PERCEPTUAL_PART)
            with self.plan.autocast():
                terms["perceptual"] = self.perceptual(found[:half], wanted[:half])
        return terms


def basic_rows(networks: FaceNetworks, rows: Tensor) -> Tensor:
    """Keep the basic rows of (N, rows, style) and put the mean style for the rest."""
    missing = networks.encoder.mean.expand(1, rows.shape[1], -1)
    return with_basic_only(rows, networks.widths.basic_rows, missing)


@torch.no_grad()
def draw_layers(networks: FaceNetworks, images: Tensor) -> dict[str, Tensor]:
    """Draw faces (N, 3, R, R), 0..255, again from one, two and three layers of uncoded codes."""
    codes = networks.encoder(images)
    pictures = {
        "basic": networks.generator.synthesise(basic_rows(networks, codes.rows)),
        "rows": networks.generator.synthesise(codes.rows),
        "feature": networks.generator.synthesise(codes.rows, codes.feature),
    }
    return {name: ((p + 1) * 127.5).clamp(0, 255) for name, p in pictures.items()}


@torch.no_grad()
def psnr_report(networks: FaceNetworks, bank: FaceBank, plan: Plan) -> dict[str, float]:
    """Mean PSNR in dB of the pictures of each layer, from uncoded codes."""
    networks.eval()
    found: dict[str, list[Tensor]] = {name: [] for name in LAYERS}
    for faces in bank.batches(plan.batch):
        images = channels_last(faces.images, plan.device)
        for name, picture in draw_layers(networks, images).items():
            error = F.mse_loss(picture, images, reduction="none").mean((1, 2, 3))
            found[name].append(10 * torch.log10(255**2 / error))
    networks.train()
    return {name: round(float(torch.cat(parts).mean()), 3) for name, parts in found.items()}
