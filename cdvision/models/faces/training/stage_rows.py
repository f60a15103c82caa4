"""The rows stage: rows learn to say what F says, for codecs that send no F.

::

    F of a face (computed once) ─ refiner ─▶ rows ─ generator, frozen ─▶ picture, as the face

Pictures are drawn with later rows as the encoder gives them, too: each layer of a stream must be
worth its bytes without those behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.row_refiner import RowRefiner
from cdvision.models.faces.style_layers import MIDDLE_ROWS
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.face_codes import FaceCodes
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import RowsOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.rows_start import start_refiner
from cdvision.models.faces.training.stage_inversion import PERCEPTUAL_PART
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage

LEAP = 0.03  # of the directions, over the learning rate
LAYERS, SHARES = ("basic", "middle", "enhanced"), (0.2, 0.3, 0.5)  # of steps
WEIGHTS = {"l1": 2.0, "l2": 2.0, "perceptual": 0.5, "attributes": 1.0}


class RowsStage(Stage):
    """Train ``networks.refiner``; everything else is frozen.

    Args:
        networks: encoder, generator and attribute head, trained; a refiner is added.
        bank: training faces.
        codes: of the faces, those of the mirrored faces behind them.
        held_out: faces to measure on.
        plan: length, batch, device.
        perceptual: the perceptual distance; None leaves it out.
        options: learning rate.
    """

    name = "faces-rows"

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        codes: FaceCodes,
        held_out: FaceBank,
        plan: Plan,
        perceptual: PerceptualLoss | None = None,
        options: RowsOptions | None = None,
    ) -> None:
        rate = (options or RowsOptions()).learning_rate
        self.networks = lay_out(networks, plan.device).eval().requires_grad_(False)
        self.refiner = networks.refiner = RowRefiner(networks.widths).to(plan.device)
        self.bank, self.codes, self.held_out, self.plan = bank, codes, held_out, plan
        self.perceptual = None if perceptual is None else lay_out(perceptual, plan.device)
        directions = list(self.refiner.directions.parameters())
        others = [p for p in self.refiner.parameters() if p is not directions[0]]
        groups = [
            {"params": others, "lr": rate},
            {"params": directions, "lr": LEAP * rate},
        ]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def begin(self, rng: np.random.Generator) -> None:
        """Set directions and first steps of the refiner."""
        generator = self.networks.generator
        start_refiner(self.refiner, generator, self.codes, self._pictures, self.plan, rng)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"networks": self.networks}

    def result(self) -> nn.Module:
        """Return the networks."""
        return self.networks

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of the pictures of one batch and one layer, and of what the head tells."""
        chosen = torch.from_numpy(rng.integers(len(self.codes), size=self.plan.batch))
        codes, wanted = self.codes.at(chosen.to(self.plan.device)), self._pictures(chosen)
        layer = str(rng.choice(LAYERS, p=SHARES))
        with self.plan.autocast():
            refined = self.refiner(codes.rows, codes.feature)
            rows = layer_rows(refined, codes.rows, self.networks.widths.basic_rows, layer)
            found = self.networks.generator.synthesise(rows).float()
        terms = {"l1": (found - wanted).abs().mean(), "l2": (found - wanted).square().mean()}
        if self.perceptual is not None:
            half = -(-len(found) // PERCEPTUAL_PART)
            with self.plan.autocast():
                terms["perceptual"] = self.perceptual(found[:half], wanted[:half])
        if codes.attributes.shape[1]:
            logits = self.networks.head(rows.float())
            terms["attributes"] = F.binary_cross_entropy_with_logits(logits, codes.attributes)
        loss = torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
        return loss, terms | {f"l1_{layer}": terms["l1"]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            **self.networks.facts(),
            "faces": len(self.codes),
            "perceptual": self.perceptual is not None,
            "weights": WEIGHTS,
            "held_out": {"psnr": rows_psnr(self.networks, self.held_out, self.plan)},
        }

    def _pictures(self, chosen: Tensor) -> Tensor:
        """Return the faces of codes, (N, 3, R, R) in -1..1; those of the second half mirrored."""
        count = len(self.bank.images)
        images = self.bank.images[(chosen % count).to(self.bank.images.device)].float()
        mirrored = (chosen >= count).to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
        return channels_last(images, self.plan.device) / 127.5 - 1


def layer_rows(refined: Tensor, own: Tensor, basic_rows: int, layer: str) -> Tensor:
    """Take refined rows of (N, rows, style) up to a layer, and the encoder's own behind it."""
    ends = {"own": 0, "basic": basic_rows, "middle": basic_rows + MIDDLE_ROWS}
    end = ends.get(layer, own.shape[1])
    return torch.cat([refined[:, :end], own[:, end:]], 1)


@torch.no_grad()
def rows_psnr(networks: FaceNetworks, bank: FaceBank, plan: Plan) -> dict[str, float]:
    """Mean PSNR in dB of pictures from the encoder's own rows, and refined up to each layer."""
    found: dict[str, list[Tensor]] = {name: [] for name in ("own", *LAYERS)}
    for faces in bank.batches(plan.batch):
        images = channels_last(faces.images, plan.device)
        own, refined = networks.encoder(images).rows, networks.codes(images).rows
        for name, parts in found.items():
            rows = layer_rows(refined, own, networks.widths.basic_rows, name)
            picture = ((networks.generator.synthesise(rows) + 1) * 127.5).clamp(0, 255)
            error = F.mse_loss(picture, images, reduction="none").mean((1, 2, 3))
            parts.append(10 * torch.log10(255**2 / error))
    return {name: round(float(torch.cat(parts).mean()), 3) for name, parts in found.items()}
