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

from cdvision.models.faces.inversion_encoder import InversionCodes
from cdvision.models.faces.style_generator import to_pixels
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.face_stage import (
    FaceStage,
    attribute_losses,
    attribute_report,
    basic_rows,
    psnr_report,
    require_attributes,
    standardise,
)
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import InversionOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last

FAINT = 0.1  # of the RGB weights that adversarial training likes; they paint far outside -1..1
LAYERS, SHARES = ("basic", "rows", "feature"), (0.15, 0.4, 0.45)
WEIGHTS = {"l1": 2.0, "l2": 2.0, "perceptual": 0.5, "feature": 0.05, "attributes": 0.5, "rows": 1.0}


class InversionStage(FaceStage):
    """Train ``networks.encoder`` and ``networks.head`` (and the generator, on request).

    Without ``perceptual`` steps are far cheaper.
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
        super().__init__(networks, bank, held_out, plan, perceptual)
        self.options = options or InversionOptions()
        networks.train()
        self.optimizer = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))

    def begin(self, rng: np.random.Generator) -> None:
        """Set the scales of heads that are new, and make a new generator paint faintly."""
        standardise(self.networks, self.bank, self.plan, feature=True)
        generator = self.networks.generator
        # A mapping whose mean is still zero was never trained.
        if self.options.tune_generator and not generator.mapping.mean.any():
            with torch.no_grad():
                for block in generator.layers():
                    block.rgb.conv.weight.mul_(FAINT)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of pictures, codes and attributes of one batch, and of one layer."""
        count = round(self.options.drawn * self.plan.batch)
        faces = self.bank.batch(self.plan.batch - count, rng)
        drawn, known = self._draw(count)
        # Drawn faces come last: their rows are known, their attributes are not.
        images = channels_last(torch.cat([faces.images, drawn]), self.plan.device)
        layer = str(rng.choice(LAYERS, p=SHARES))
        with self.plan.autocast():
            codes = self.networks.encoder(images)
            picture, feature_error = self._picture(codes, layer)
        terms = self.picture_errors(picture.float(), images / 127.5 - 1)
        terms["attributes"] = self._attribute_error(codes, faces.attributes)
        if feature_error is not None:
            terms["feature"] = feature_error
        if count:
            terms["rows"] = (codes.rows[-count:].float() - known).square().mean()
        loss = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
        return loss, terms | {f"l1_{layer}": terms["l1"]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        networks = self.networks
        held_out: dict[str, Any] = attribute_report(networks, self.held_out, self.plan)
        networks.eval()
        held_out["psnr"] = psnr_report(
            lambda images: draw_layers(networks, images), self.held_out, self.plan
        )
        networks.train()
        return {
            **networks.facts(),
            "faces": len(self.bank.images),
            "attributes": list(self.bank.names),
            "tune_generator": self.options.tune_generator,
            "drawn": self.options.drawn,
            "perceptual": self.perceptual is not None,
            "rates": self.options.rates,
            "weights": WEIGHTS,
            "held_out": held_out,
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
        parts: dict[str, list[nn.Module]] = {
            "trunk": [encoder.trunk],
            "heads": [encoder.hidden, encoder.styles, encoder.feature, networks.head],
            "generator": [networks.generator],
        }
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
        return to_pixels(generator.synthesise(rows)).round(), rows

    def _picture(self, codes: InversionCodes, layer: str) -> tuple[Tensor, Tensor | None]:
        """Draw one layer's pictures; with F, also tell how far it is from the generator's own."""
        generator, rows = self.networks.generator, codes.rows
        if layer == "feature":
            # Near the generator's own, F can be coded as a correction, and left out.
            error = (codes.feature - generator.activation(rows)).float().square().mean()
            return generator.synthesise(rows, codes.feature), error
        if layer == "basic":
            rows = basic_rows(self.networks, rows)
        return generator.synthesise(rows), None


@torch.no_grad()
def draw_layers(networks: FaceNetworks, images: Tensor) -> dict[str, Tensor]:
    """Draw faces (N, 3, R, R), 0..255, again from one, two and three layers of uncoded codes."""
    codes, draw = networks.encoder(images), networks.generator.synthesise
    return {
        "basic": to_pixels(draw(basic_rows(networks, codes.rows))),
        "rows": to_pixels(draw(codes.rows)),
        "feature": to_pixels(draw(codes.rows, codes.feature)),
    }
