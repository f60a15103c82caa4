"""The rows stage: rows learn to say what F says, for codecs that send no F.

::

    F of a face (computed once) ─ refiner ─▶ rows ─ generator, frozen ─▶ picture, as the face

Pictures are drawn with later rows as the encoder gives them, too: each layer of a stream must be
worth its bytes without those behind it.

It starts with one step of Gauss and Newton on every picture, learned by F:

1. Directions of the rows' space, by how much pictures change along them (probed as in
   ``style_metric``), each as long as to change them about equally.
2. How pictures change along each, on a coarse grid, on the average of a few faces.
3. The step of a ridge regression that brings each training face's picture closer.
4. The refiner learns these steps from F, which is cheap: nothing is drawn for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cdvision.models.faces.inversion_encoder import RowRefiner
from cdvision.models.faces.style_generator import StyleGenerator, to_pixels
from cdvision.models.faces.style_layers import MIDDLE_ROWS
from cdvision.models.faces.training.face_bank import FaceBank, FaceCodes
from cdvision.models.faces.training.face_stage import FaceStage, psnr_report
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import RowsOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.style_metric import gradients_of
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last

LEAP = 0.03  # of the directions, over the learning rate
LAYERS, SHARES = ("basic", "middle", "enhanced"), (0.2, 0.3, 0.5)  # of steps
WEIGHTS = {"l1": 2.0, "l2": 2.0, "perceptual": 0.5, "attributes": 1.0}
PROBED, SENSED, TAUGHT = 600, 8, 4000  # faces
COARSE = 32  # pixels a side
CHANGE = 0.02  # root mean square of a picture's change, in -1..1, along a whole direction
RIDGE = 2.0  # of the step, over the mean strength of a direction: pictures are far from linear
STEPS, BATCH, LEARNING_RATE = 400, 64, 1e-3

Pictures = Callable[[Tensor], Tensor]
"""Positions (N,) of codes to their faces (N, 3, R, R) in -1..1."""
Drawn = Callable[[Tensor], Tensor]
"""Rows (N, rows, style) to coarse pictures (N, pixels)."""


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
        # Each is a whole direction of rows: at the rate of the others it would turn at once.
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
    # As a receiver that has these layers: later rows are not refined yet.
    ends = {"own": 0, "basic": basic_rows, "middle": basic_rows + MIDDLE_ROWS}
    end = ends.get(layer, own.shape[1])
    return torch.cat([refined[:, :end], own[:, end:]], 1)


def start_refiner(
    refiner: RowRefiner,
    generator: StyleGenerator,
    codes: FaceCodes,
    pictures: Pictures,
    plan: Plan,
    rng: np.random.Generator,
) -> None:
    """Set a refiner that has learned nothing yet, in place, by codes of faces and ``pictures``."""
    seen = codes.at(_some(codes, PROBED, rng))
    refiner.standard.fit(seen.feature.permute(0, 2, 3, 1).flatten(0, 2))
    with plan.autocast():
        gradients = gradients_of(generator.synthesise, seen.rows)
    # The root of the sum over all values of a picture, whose root mean square is CHANGE.
    change = CHANGE * (3 * generator.widths.resolution**2) ** 0.5
    directions = change * _directions(gradients.float(), refiner.out.out_features)
    refiner.directions.weight.data.copy_(directions)

    def drawn(rows: Tensor) -> Tensor:
        with plan.autocast():
            return _coarse(generator.synthesise(rows).float())

    faces = _some(codes, TAUGHT, rng)
    solve = _solution(refiner, drawn, codes.rows[_some(codes, SENSED, rng)])
    with torch.no_grad():
        steps = [
            (_coarse(pictures(part)) - drawn(codes.rows[part])) @ solve
            for part in torch.split(faces, 16)
        ]
    _learn(refiner, codes.at(faces).feature, torch.cat(steps), plan, rng)


def _some(codes: FaceCodes, count: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(len(codes))[:count]).to(codes.rows.device)


def _directions(gradients: Tensor, count: int) -> Tensor:
    """Return directions as columns (values, count) along which the pixels' squares change by 1."""
    _, strength, found = torch.linalg.svd(gradients / len(gradients) ** 0.5, full_matrices=False)
    kept = min(count, len(strength))
    # The weak ones are shorter than that: nothing is linear so far out.
    lengths = (strength[:kept].square() + strength[kept - 1].square()).rsqrt()
    columns = gradients.new_zeros(gradients.shape[1], count)
    columns[:, :kept] = (lengths[:, None] * found[:kept]).T
    return columns


@torch.no_grad()
def _solution(refiner: RowRefiner, drawn: Drawn, base: Tensor) -> Tensor:
    """Return what turns a coarse picture's error into a step, (pixels, directions)."""
    before = drawn(base)
    changes = torch.stack(
        [(drawn(base + d.view_as(base[0])) - before).mean(0) for d in refiner.directions.weight.T]
    )
    # Outside of autocast: in half precision the ridge would drown.
    strength = changes @ changes.T
    ridge = RIDGE * strength.diagonal().mean() * torch.eye(len(strength)).to(strength)
    solution: Tensor = torch.linalg.solve(strength + ridge, changes)
    return solution.T


def _coarse(pictures: Tensor) -> Tensor:
    # Small shifts of fine detail look like large errors, which no linear step mends.
    return F.adaptive_avg_pool2d(pictures, min(COARSE, pictures.shape[3])).flatten(1)


def _learn(
    refiner: RowRefiner, feature: Tensor, steps: Tensor, plan: Plan, rng: np.random.Generator
) -> None:
    """Learn the steps (M, directions) of faces from their F, (M, C, side, side)."""
    optimizer = torch.optim.Adam(refiner.parameters(), LEARNING_RATE)
    # To zero at the end: what follows goes on from weights that have settled.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        chosen = torch.from_numpy(rng.integers(len(steps), size=BATCH)).to(steps.device)
        with plan.autocast():  # left in every step: it keeps copies of the weights
            found = refiner.steps(feature[chosen]).float()
        optimizer.zero_grad()
        (found - steps[chosen]).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
