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
from torch import Tensor
from torch.nn import functional as F

from cdvision.models.faces.row_refiner import RowRefiner
from cdvision.models.faces.style_generator import to_pixels
from cdvision.models.faces.style_layers import MIDDLE_ROWS
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.face_codes import FaceCodes
from cdvision.models.faces.training.face_stage import FaceStage, psnr_report
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import RowsOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.rows_start import start_refiner
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last

LEAP = 0.03  # of the directions, over the learning rate
LAYERS, SHARES = ("basic", "middle", "enhanced"), (0.2, 0.3, 0.5)  # of steps
WEIGHTS = {"l1": 2.0, "l2": 2.0, "perceptual": 0.5, "attributes": 1.0}


class RowsStage(FaceStage):
    """Train ``networks.refiner``, which is added; everything else is trained and frozen.

    ``codes`` are those of the faces, and of their mirror images behind them.
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
        super().__init__(networks, bank, held_out, plan, perceptual)
        networks.eval().requires_grad_(False)
        self.refiner = networks.refiner = RowRefiner(networks.widths).to(plan.device)
        self.codes = codes
        rate = (options or RowsOptions()).learning_rate
        directions = list(self.refiner.directions.parameters())
        others = [p for p in self.refiner.parameters() if p is not directions[0]]
        groups = [{"params": others, "lr": rate}, {"params": directions, "lr": LEAP * rate}]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def begin(self, rng: np.random.Generator) -> None:
        """Set directions and first steps of the refiner."""
        generator = self.networks.generator
        start_refiner(self.refiner, generator, self.codes, self._pictures, self.plan, rng)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of the pictures of one batch and one layer, and of what the head tells."""
        chosen = torch.from_numpy(rng.integers(len(self.codes), size=self.plan.batch))
        codes, wanted = self.codes.at(chosen.to(self.plan.device)), self._pictures(chosen)
        layer = str(rng.choice(LAYERS, p=SHARES))
        with self.plan.autocast():
            refined = self.refiner(codes.rows, codes.feature)
            rows = layer_rows(refined, codes.rows, self.networks.widths.basic_rows, layer)
            found = self.networks.generator.synthesise(rows).float()
        terms = self.picture_errors(found, wanted)
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
            "held_out": {"psnr": psnr_report(self._draw_layers, self.held_out, self.plan)},
        }

    def _pictures(self, chosen: Tensor) -> Tensor:
        """Return the faces of codes, (N, 3, R, R) in -1..1; those of the second half mirrored."""
        count = len(self.bank.images)
        images = self.bank.images[(chosen % count).to(self.bank.images.device)].float()
        mirrored = (chosen >= count).to(images.device)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
        return channels_last(images, self.plan.device) / 127.5 - 1

    def _draw_layers(self, images: Tensor) -> dict[str, Tensor]:
        """Draw faces, 0..255, from the encoder's own rows, and refined up to each layer."""
        networks = self.networks
        own, refined = networks.encoder(images).rows, networks.codes(images).rows
        rows = {
            name: layer_rows(refined, own, networks.widths.basic_rows, name)
            for name in ("own", *LAYERS)
        }
        return {name: to_pixels(networks.generator.synthesise(x)) for name, x in rows.items()}


def layer_rows(refined: Tensor, own: Tensor, basic_rows: int, layer: str) -> Tensor:
    """Take refined rows of (N, rows, style) up to a layer, and the encoder's own behind it."""
    ends = {"own": 0, "basic": basic_rows, "middle": basic_rows + MIDDLE_ROWS}
    end = ends.get(layer, own.shape[1])
    return torch.cat([refined[:, :end], own[:, end:]], 1)
