"""Trains the mask branch of `small` on finished streams: everything before it is frozen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.engines import create_engine
from cdvision.errors import CdvisionError
from cdvision.heads.dynamic_masks import HIDDEN, PLACES, PROTOTYPES, STRIDE
from cdvision.heads.mask_head import MaskHead
from cdvision.models.small.graphs import load
from cdvision.models.small.training.mask_examples import MaskExample, draw_example, sample_in_boxes
from cdvision.models.small.training.options import MaskOptions
from cdvision.package.loader import ModelPackage
from cdvision.training.labelled_boxes import BoxedPhoto, LabelledBank
from cdvision.training.plan import Plan
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

ROUND_BATCHES, ROUND_PASSES = 24, 4  # a round is drawn once and learned from so many times


class MaskStage(Stage):
    """The mask branch on frozen streams.

    ``start`` gets a new branch where it has none; ``banks`` are those of ``banks_with_masks``.
    """

    name = "masks"

    def __init__(
        self,
        start: ModelPackage,
        banks: Sequence[LabelledBank],
        plan: Plan,
        options: MaskOptions | None = None,
    ) -> None:
        model = load(start.weights_path)
        if model.masks is None:
            torch.manual_seed(plan.seed)
            model.add_masks()
        self.engine = create_engine("onnx", start, threads=torch.get_num_threads())
        self.model = model.to(plan.device).eval().requires_grad_(False)
        self.branch = cast(MaskHead, model.masks).requires_grad_(True)
        self.average = WeightAverage(self.branch)
        self.banks, self.plan = banks, plan
        self.optimizer = torch.optim.AdamW(
            self.branch.parameters(),
            lr=(options or MaskOptions()).learning_rate,
            weight_decay=1e-4,
            fused=True,
        )
        self._pool = ThreadPoolExecutor(1)
        self._rounds: dict[int, Future[list[MaskExample]]] = {}

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"branch": self.branch, "average": self.average}

    def result(self) -> nn.Module:
        """Return the whole model with the averaged branch."""
        finished = copy.deepcopy(self.model)
        cast(MaskHead, finished.masks).load_state_dict(self.average.network.state_dict())
        return finished

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare masks with labels at points spread over the boxes."""
        example = self._example(int(self.average.taken))
        prototypes = self.branch.prototypes(example.features, example.pyramid)
        logits = mask_logits(
            sample_in_boxes(prototypes, example.image, example.boxes, stride=STRIDE),
            self.branch.coefficients(self.branch.cell_codes(example.cells)),
        )
        terms = mask_losses(logits, example.masks)
        return terms["entropy"] + terms["dice"], terms

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.branch)

    def record(self) -> dict[str, Any]:
        """Return facts for the card."""
        return {"photos": [len(bank.landscape) + len(bank.portrait) for bank in self.banks]}

    def _example(self, step: int) -> MaskExample:
        """Return the batch of a step; another thread prepares the round after this one."""
        number, place = divmod(step, ROUND_BATCHES * ROUND_PASSES)
        if number not in self._rounds:
            self._rounds = {number: self._pool.submit(self._drawn, number)}
        if number + 1 not in self._rounds:
            following = self._pool.submit(self._drawn, number + 1)
            self._rounds = {number: self._rounds[number], number + 1: following}
        # Every pass over a round takes its batches in another order.
        turn, place = divmod(place, ROUND_BATCHES)
        order = np.random.default_rng((self.plan.seed, number, turn)).permutation(ROUND_BATCHES)
        return self._rounds[number].result()[int(order[place])]

    def _drawn(self, number: int) -> list[MaskExample]:
        rng = np.random.default_rng((self.plan.seed, number))
        # A power below 1: small sets are drawn more often than their share of the photos.
        shares = np.array([(len(b.landscape) + len(b.portrait)) ** 0.6 for b in self.banks])
        chosen = rng.choice(len(self.banks), size=ROUND_BATCHES, p=shares / shares.sum())
        return [
            draw_example(self.engine, self.model, self.banks[i], self.plan.batch, rng)
            for i in chosen
        ]


def mask_logits(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Run each object's network on prototypes sampled in its box: (P, 12, S, S) -> (P, S, S).

    The twin of ``cdvision.core.boxes.mask_lines``.
    """
    count, _, side, _ = prototypes.shape
    inputs = PROTOTYPES + PLACES
    sizes = [HIDDEN * inputs, HIDDEN, HIDDEN, 1]
    first, bias, last, offset = torch.split(coefficients, sizes, dim=1)
    # A coefficient's place is known to its network: from -1 to 1 over the box, at cell centres.
    line = (torch.arange(side, device=prototypes.device) + 0.5) * 2 / side - 1
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"))  # x, y
    known = torch.cat([prototypes, places.expand(count, -1, -1, -1)], dim=1).flatten(2)
    # Each object has weights of its own: a batch of matrix products is one small network each.
    hidden = torch.baddbmm(bias[:, :, None], first.view(count, HIDDEN, inputs), known)
    logits = torch.baddbmm(offset[:, :, None], last[:, None], F.relu(hidden))
    return logits.view(count, side, side)


def mask_losses(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and dice loss of (P, S, S) logits, every object weighing the same.

    Source: Milletari et al., "V-Net", 3DV 2016, for the dice loss.
    """
    if not len(logits):  # a sum of nothing still has a gradient, a mean of nothing is NaN
        return {"entropy": logits.sum(), "dice": logits.sum()}
    # Both are means over objects: points are as many in a small box as in a large one.
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    guess, truth = torch.sigmoid(logits).flatten(1), masks.flatten(1)
    shared = (guess * truth).sum(1)
    total = guess.square().sum(1) + truth.square().sum(1)
    return {"entropy": entropy, "dice": (1 - 2 * shared / (total + 1e-3)).mean()}


def banks_with_masks(
    sets: Sequence[Sequence[BoxedPhoto]], *, short: int, long: int, device: torch.device
) -> list[LabelledBank]:
    """Keep the photos that have a mask; each set is drawn by a power of its size."""
    kept = [[p for p in photos if any(m is not None for m in p.masks)] for photos in sets]
    if not all(kept):
        raise CdvisionError("masks: expected photos with masks in every --boxes, found one without")
    return [LabelledBank(photos, short=short, long=long, device=device) for photos in kept]
