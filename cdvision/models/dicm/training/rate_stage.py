"""What the stages with a rate share: the model, its rate term, and what they draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.training.rates import bits_per_pixel, rate_term, spread
from cdvision.training.photo_bank import PhotoBank, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.stage import Stage


class RateStage(Stage):
    """Base of stages that train features against bits.

    Args:
        network: what the run is for; laid out on the plan's device, in training mode.
        plan: length, batch, device.
        qualities: of the model.
        rate_weight: multiplier of bits per pixel; qualities spread around it.
        targets: bits per pixel to steer the qualities to instead, see :mod:`.rates`.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: Plan,
        *,
        qualities: int,
        rate_weight: float,
        targets: Sequence[float] | None,
    ) -> None:
        self.network, self.plan, self.qualities = network, plan, qualities
        lay_out(network, plan.device).train()
        self.rate = rate_term(spread(rate_weight, qualities), targets).to(plan.device)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"model": self.network, "rate": self.rate}

    def result(self) -> nn.Module:
        """Return the whole model, the parts that do not train included."""
        return self.network

    def watched(self) -> dict[str, Any]:
        """Return the running rates."""
        return {"bpp": [round(bpp, 4) for bpp in bits_per_pixel(self.rate)]}

    def draw_crops(self, banks: Sequence[PhotoBank], rng: np.random.Generator) -> Tensor:
        """Draw a batch (N, 3, S, S) of crops, laid out as convolutions like it."""
        return channels_last(draw_batch(banks, self.plan.batch, rng), self.plan.device)

    def draw_qualities(self, size: int, rng: np.random.Generator) -> Tensor:
        """Draw a quality for each of ``size`` photos."""
        return draw_qualities(self.qualities, size, rng, self.plan.device)


def draw_qualities(
    qualities: int, size: int, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Draw (size,) int64 qualities, 0-based."""
    return torch.from_numpy(rng.integers(qualities, size=size)).to(device)


def pixels_of(image: Tensor) -> int:
    """Pixels of one picture of a batch (N, 3, H, W)."""
    return image.shape[2] * image.shape[3]
