"""Stage 1: the RE networks alone, between a frozen front and (for feature losses) a frozen tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.training.dicm.distortions import L1_WEIGHT, feature_errors, mean_absolute_error
from cdvision.training.dicm.protocols import (
    RedundancyModel,
    as_module,
    channels_last,
    freeze,
    lay_out,
)
from cdvision.training.dicm.rates import bits_per_pixel, ramp, rate_groups, rate_term, spread
from cdvision.training.dicm.redundancy_start import start_redundancy
from cdvision.training.dicm.stage_run import Plan, Stage
from cdvision.training.photo_bank import PhotoBank

LEARNING_RATE = 1e-4
START_CROPS = 80  # of each group of photos, from which a head start is computed
RATE_WEIGHT = 1.0  # the paper's; qualities spread around it


class RedundancyStage(Stage):
    """Train RE with 128 mean|f1 - f2| + λ R(y1).

    Args:
        model: its RE networks and prior are trained in place; front and tail are frozen.
        banks: groups of photos, drawn by their shares.
        plan: length, batch, device.
        qualities: of the model.
        feature_losses: replace the L1 term by the normalised errors of f2 and of every stage
            behind it. Not in the paper; it is what answers depend on.
        targets: bits per pixel to steer the qualities to, see :mod:`.rates`.
        learning_rate: of Adam.
        head_start: set RE's convolutions by principal components first (``redundancy_start``);
            the rate then counts from the first step. For a new run only.
    """

    name = "redundancy"

    def __init__(
        self,
        model: RedundancyModel,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        qualities: int = 8,
        feature_losses: bool = False,
        targets: Sequence[float] | None = None,
        learning_rate: float = LEARNING_RATE,
        head_start: bool = False,
    ) -> None:
        self.head_start = head_start
        self.model, self.banks, self.plan = model, banks, plan
        self.qualities, self.feature_losses = qualities, feature_losses
        network = lay_out(as_module(model), plan.device)
        network.train()
        freeze(model.front, model.tail)
        self.rate = rate_term(spread(RATE_WEIGHT, qualities), targets).to(plan.device)
        self.optimizer = torch.optim.Adam(rate_groups(network, learning_rate), fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Set the start of a new run."""
        if self.head_start:
            batches = [draw_batch([bank], START_CROPS, rng) for bank in self.banks]
            least = min(batch.shape[3] for batch in batches)
            crops = torch.cat([batch[:, :, :least, :least] for batch in batches])
            start_redundancy(self.model, crops.to(self.plan.device))

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"model": as_module(self.model), "rate": self.rate}

    def result(self) -> nn.Module:
        """Return the RE model, backbone included."""
        return as_module(self.model)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate of one batch."""
        image = channels_last(draw_batch(self.banks, self.plan.batch, rng), self.plan.device)
        quality = draw_qualities(self.qualities, len(image), rng, self.plan.device)
        with self.plan.autocast():
            with torch.no_grad():
                features = self.model.front(image)
            sent = self.model.transmit(features, quality)
            terms = self._distortion(sent.features, features)
        pixels = image.shape[2] * image.shape[3]
        weight = 1.0 if self.head_start else ramp(done)
        rate = weight * self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        return torch.stack([*terms.values(), rate]).sum(), terms | {"rate": rate}

    def watched(self) -> dict[str, Any]:
        """Return the running rates."""
        return {"bpp": [round(bpp, 4) for bpp in bits_per_pixel(self.rate)]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            "photos": sum(len(bank.photos) for bank in self.banks),
            "feature_losses": self.feature_losses,
            "head_start": self.head_start,
            **self.watched(),
        }

    def _distortion(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        if self.feature_losses:
            return feature_errors(self.model.tail, found, wanted)
        return {"l1": L1_WEIGHT * mean_absolute_error(found, wanted)}


def draw_batch(banks: Sequence[PhotoBank], size: int, rng: np.random.Generator) -> Tensor:
    """Draw a group by its share and a batch (size, 3, S, S) of crops from it."""
    shares = np.array([bank.plan.share for bank in banks])
    return banks[rng.choice(len(banks), p=shares / shares.sum())].batch(size, rng)


def draw_qualities(
    qualities: int, size: int, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Draw (size,) int64 qualities, 0-based."""
    return torch.from_numpy(rng.integers(qualities, size=size)).to(device)
