"""Tunes what a receiver runs, the detector's tap and tail, on a finished encoder.

No stream changes by a byte, and streams that are stored already gain too. Ten minutes of it raised
the top quality's AP from 0.337 to 0.351: the end of a run, where the encoder stands still, is when
a receiver learns best.

A receiver may run a wider detector than the sender's: its tail begins as it was published, its tap
with a regression.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.small.detector_taps import WideDetectorTap
from cdvision.models.small.nanodet import PLAIN, NanoDetFront
from cdvision.models.small.network import Small, detector_of
from cdvision.models.small.training.distillation import weighted_sum
from cdvision.models.small.training.map_stage import DistilledStage, fill_small
from cdvision.models.small.training.options import ReceiverOptions
from cdvision.models.small.training.wide_start import Example, fill_beside_detector, start_wide_tap
from cdvision.training.finished import Finished
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import lay_out

# High qualities are drawn more often: there the receiver, and not the rate, is what loses accuracy.
QUALITY_SHARES = (0.6, 0.8, 1.0, 1.2, 1.4, 1.4, 1.4, 1.6)
REGRESSION_DRAWS = 3  # of the crops of a start: a regression on 1152 inputs needs some hundred


class ReceiverStage(DistilledStage):
    """Trains the detector's tap and tail of a finished model, everything else frozen.

    ``start`` may be a run of `cdvision train masks`, too. Raises CdvisionError where it is of
    another network, or of a wider detector than the one that is asked for.
    """

    name = "receiver"

    def __init__(
        self,
        weights: Path,
        start: Finished,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: ReceiverOptions | None = None,
    ) -> None:
        start.require_network("small")
        self.start, self.options = start, options or ReceiverOptions()
        had = detector_of(start.weights())
        super().__init__(weights, banks, plan, detector=self.options.detector or had)
        self.plain: Small | None = None  # what a wider detector's tap begins with
        self.masks: dict[str, Tensor] = {}
        if self.model.detector == had:
            self.masks = fill_small(self.model, start)
        else:
            self.plain = fill_beside_detector(self.model, start)
        self.optimizer = torch.optim.Adam(
            receiver_groups(self.model, self.options), betas=(0.9, 0.99), eps=1e-12, fused=True
        )

    def begin(self, rng: np.random.Generator) -> None:
        """Take over metric and multipliers, or measure them; start a wider detector."""
        images = self.draw_start(rng)
        self.restore_metric(self.start, images)
        if self.plain is not None:
            self._start_wide(self.plain, rng)
        self.restore_prices(self.start, images)
        self.average.restart(self.model)

    def _start_wide(self, plain: Small, rng: np.random.Generator) -> None:
        """Begin with the published tail, and a tap by regression."""
        images = [image for _ in range(REGRESSION_DRAWS) for image in self.draw_start(rng)]
        self.model.detector_tail.load_state_dict(self.teacher.tail.state_dict())
        start_wide_tap(
            cast(WideDetectorTap, self.model.detector_tap),
            plain=lay_out(plain.detector_tap, self.plan.device).context,
            stage3=self.teacher.front.stage3,
            root=self.sensitivity.root,
            examples=[self._example(image, rng) for image in images],
        )

    @torch.no_grad()
    def _example(self, image: Tensor, rng: np.random.Generator) -> Example:
        quality = draw_quality(len(image), rng).to(self.plan.device)
        sent, wanted = self.send(image, quality)
        return Example(sent.y, wanted)

    def result(self) -> nn.Module:
        """Return the averaged model, with the mask branch that the start had."""
        whole = copy.deepcopy(self.average.network)
        if self.masks:
            # It has learned from the old features: `cdvision train masks` should follow.
            whole.add_masks()
            whole.load_state_dict({**whole.state_dict(), **self.masks})
        if whole.detector != PLAIN:
            whole.add_wide_front()
            cast(NanoDetFront, whole.wide_front).load_state_dict(self.teacher.front.state_dict())
        return whole

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare what arrives of one batch with what the uncompressed networks make of it."""
        # A tail that learns from a tap's first guesses forgets what it was published for.
        self.model.detector_tail.requires_grad_(done >= self.options.tail_from)
        image = self.draw_crops(rng)
        terms = self.compare(image, draw_quality(len(image), rng).to(self.plan.device))[1]
        return weighted_sum(terms), terms

    def record(self) -> dict[str, Any]:
        """Return facts for the card: also those of the run that was tuned."""
        chosen = {**asdict(self.options), "detector": self.model.detector}
        return {**super().record(), **chosen, "tuned": self.start.record}


def receiver_groups(model: Small, options: ReceiverOptions) -> list[dict[str, Any]]:
    """Freeze all but the detector's tap and tail; give each its learning rate."""
    model.requires_grad_(False)
    rates = ((model.detector_tap, options.tap_rate), (model.detector_tail, options.tail_rate))
    return [
        {"params": list(part.requires_grad_(True).parameters()), "lr": rate} for part, rate in rates
    ]


def draw_quality(size: int, rng: np.random.Generator) -> Tensor:
    """Draw (size,) int64 qualities, 0 to 7, by their shares."""
    shares = np.array(QUALITY_SHARES) / sum(QUALITY_SHARES)
    return torch.from_numpy(rng.choice(len(shares), size=size, p=shares))
