"""What the stages with a rate share: the model, its rate term, and what they draw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.models.dicm.training.options import RateOptions
from cdvision.models.dicm.training.rates import bits_per_pixel, ramp, rate_term, spread
from cdvision.networks.scales import QUALITIES
from cdvision.training.photo_bank import PhotoBank, count_photos, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage


class RateStage(Stage):
    """Base of stages that train features against bits.

    Qualities spread around ``rate_weight``, the multiplier of bits per pixel, or are steered to the
    bits per pixel that the options name.
    """

    def __init__(
        self, network: nn.Module, plan: Plan, *, rate_weight: float, options: RateOptions
    ) -> None:
        self.network, self.plan = network, plan
        lay_out(network, plan.device).train()
        self.rate = rate_term(spread(rate_weight), options.targets).to(plan.device)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"model": self.network, "rate": self.rate}

    def result(self) -> nn.Module:
        """Return the whole model, the parts that do not train included."""
        return self.network

    def watched(self) -> dict[str, Any]:
        """Return the running rates."""
        return {"bpp": [round(bpp, 4) for bpp in bits_per_pixel(self.rate)]}

    def price(self, sent: SentFeatures, quality: Tensor, image: Tensor) -> Tensor:
        """Return the weighted rate term of a batch (N, 3, H, W)."""
        pixels = image.shape[2] * image.shape[3]
        rate: Tensor = self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        return rate


class CropStage(RateStage):
    """Base of stages that minimise errors and rate on crops of photos.

    The rate comes in slowly where it is ``ramped``.
    """

    def __init__(
        self,
        network: nn.Module,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        rate_weight: float,
        options: RateOptions,
        ramped: bool,
    ) -> None:
        super().__init__(network, plan, rate_weight=rate_weight, options=options)
        self.banks, self.ramped = banks, ramped

    @abstractmethod
    def compare(self, image: Tensor, quality: Tensor) -> tuple[SentFeatures, dict[str, Tensor]]:
        """Return what arrives of (N, 3, S, S) crops at qualities (N,), and its errors by name."""

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate of one batch."""
        crops = draw_batch(self.banks, self.plan.batch, rng)
        image = channels_last(crops, self.plan.device)
        quality = draw_qualities(len(image), rng, self.plan.device)
        with self.plan.autocast():
            sent, errors = self.compare(image, quality)
        rate = (ramp(done) if self.ramped else 1.0) * self.price(sent, quality, image)
        return torch.stack([*errors.values(), rate]).sum(), errors | {"rate": rate}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {"photos": count_photos(self.banks), **self.watched()}


def draw_qualities(size: int, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Draw (size,) int64 qualities, 0-based."""
    return torch.from_numpy(rng.integers(QUALITIES, size=size)).to(device)
