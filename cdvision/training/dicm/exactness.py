"""What exactness costs: the same latents under integer networks and under the paper's transformers.

Both entropy models go on learning, side by side, on the latents of a finished codec; the integer
one from where the codec's run left it, the float one from nothing. The answer is worth reading
when neither falls any more. Nothing of the codec changes, and nothing comes out but the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.networks.dicm import Dicm
from cdvision.networks.float_entropy import FloatEntropy
from cdvision.training.dicm.protocols import channels_last, freeze, lay_out
from cdvision.training.dicm.rate_stage import draw_batch, draw_qualities, pixels_of
from cdvision.training.dicm.rates import rate_groups
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.stage_run import Plan, Stage

LEARNING_RATE = 2e-4
GAINS = ("log_gain", "log_rescale")  # they decide the latents, which both models must share
MEMORY = 0.98  # of the running means


class ExactnessStage(Stage):
    """Train both entropy models on the latents of a codec.

    Args:
        model: a trained `Dicm`; frozen, but for a copy of its entropy model.
        banks: groups of photos; their crops must be multiples of 64.
        plan: length, batch, device.
        qualities: of the model.
        learning_rate: of AdamW.
    """

    name = "exactness"

    def __init__(
        self,
        model: Dicm,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        qualities: int = 8,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        self.model, self.banks, self.plan, self.qualities = model, banks, plan, qualities
        both = {"exact": model.bottleneck, "transformers": FloatEntropy(model.re.widths)}
        freeze(lay_out(model, plan.device))
        self.both = lay_out(nn.ModuleDict(both), plan.device).requires_grad_(True).train()
        for name, parameter in model.bottleneck.named_parameters():
            parameter.requires_grad_(name not in GAINS)
        self.means = RunningMeans(tuple(both)).to(plan.device)
        self.optimizer = torch.optim.AdamW(rate_groups(self.both, learning_rate), fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"both": self.both, "means": self.means}

    def result(self) -> nn.Module:
        """Return both entropy models."""
        return self.both

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Bits per pixel of one batch under both."""
        image = channels_last(draw_batch(self.banks, self.plan.batch, rng), self.plan.device)
        quality = draw_qualities(self.qualities, len(image), rng, self.plan.device)
        bottleneck = self.model.bottleneck
        with torch.no_grad(), self.plan.autocast():
            filtered = self.model.re.transmit(self.model.re.front(image), quality).features
            y = self.model.analysis(filtered).float()
            scaled = y * torch.exp(bottleneck.log_gain)[quality][:, :, None, None]
        exact = bottleneck(y, quality)
        with self.plan.autocast():
            transformers = self.both["transformers"](scaled, quality)
        pixels = pixels_of(image)
        noisy = (exact.noisy_bits.mean() + transformers.noisy.float().mean()) / pixels
        terms = {
            "exact": exact.bits.detach().mean() / pixels,
            "transformers": transformers.sent.detach().float().mean() / pixels,
        }
        self.means.follow(terms)
        return noisy, terms

    def watched(self) -> dict[str, Any]:
        """Return the running bits per pixel of both, and what exactness costs."""
        bpp = {name: round(value, 5) for name, value in self.means.values().items()}
        return {"bpp": bpp, "cost": round(bpp["exact"] / max(bpp["transformers"], 1e-9) - 1, 4)}

    def record(self) -> dict[str, Any]:
        """Return the figures."""
        return self.watched()


class RunningMeans(nn.Module):
    """Exponential means of named numbers, unbiased from the first one on.

    Args:
        names: of the numbers.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("total", torch.zeros(len(self.names)))
        self.register_buffer("weight", torch.zeros(()))

    @torch.no_grad()
    def follow(self, values: dict[str, Tensor]) -> None:
        """Take in one more of each."""
        newest = torch.stack([values[name] for name in self.names])
        self.total.lerp_(newest, 1 - MEMORY)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - MEMORY)

    def values(self) -> dict[str, float]:
        """Return the means."""
        means = self.total / self.weight.clamp_min(1e-9)
        return dict(zip(self.names, means.tolist(), strict=True))
