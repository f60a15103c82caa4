"""What exactness costs: the same latents under integer networks and under the paper's transformers.

Both entropy models learn side by side on the latents of a finished run, and the answer is worth
reading when neither falls any more. On y2 of a codec, the integer model goes on from where the run
left it and the float one begins with nothing; on y1 of RE networks, which `dicm-re` sends under a
smaller model, both begin with nothing. Nothing of the run changes, and nothing comes out but the
figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.bottleneck import Bottleneck, CheckerboardBottleneck
from cdvision.models.dicm.codec import Dicm, DicmCodec
from cdvision.models.dicm.float_entropy import FloatEntropy
from cdvision.models.dicm.training.rate_stage import draw_qualities, pixels_of
from cdvision.models.dicm.training.rates import rate_groups
from cdvision.models.dicm.widths import DicmWidths
from cdvision.training.photo_bank import PhotoBank, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, freeze, lay_out
from cdvision.training.stage import Stage

LEARNING_RATE = 2e-4
GAINS = ("log_gain", "log_rescale")  # they decide the latents, which both models must share
MEMORY = 0.98  # of the running means


class ExactnessStage(Stage):
    """Train both entropy models on the latents of a model.

    Args:
        model: a trained `Dicm`, frozen but for its entropy model; or a trained `DicmRe`, frozen.
        banks: groups of photos; their crops must be multiples of 64.
        plan: length, batch, device.
        qualities: of the model.
        learning_rate: of AdamW.
    """

    name = "exactness"

    def __init__(
        self,
        model: DicmCodec,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        qualities: int = 8,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        self.model, self.banks, self.plan, self.qualities = model, banks, plan, qualities
        if isinstance(model, Dicm):
            self.exact, widths = model.bottleneck, model.re.widths
        else:
            widths = replace(model.widths, latents=model.widths.filtered)
            self.exact = _checkerboard(model.bottleneck, widths)
        both = {"exact": self.exact, "transformers": FloatEntropy(widths)}
        freeze(lay_out(model, plan.device))
        self.both = lay_out(nn.ModuleDict(both), plan.device).requires_grad_(True).train()
        for name, parameter in self.exact.named_parameters():
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
        with torch.no_grad(), self.plan.autocast():
            y = self._latents(image, quality).float()
            scaled = y * torch.exp(self.exact.log_gain)[quality][:, :, None, None]
        exact = self.exact(y, quality)
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

    def _latents(self, image: Tensor, quality: Tensor) -> Tensor:
        """Return y2 (N, 192, H/16, W/16) of a codec, or y1 (N, 192, H/32, W/32) of RE networks."""
        model, features = self.model, self.model.front(image)
        if isinstance(model, Dicm):
            filtered: Tensor = model.analysis(model.re.transmit(features, quality).features)
            return filtered
        y: Tensor = model.encoder(features)
        return y

    def watched(self) -> dict[str, Any]:
        """Return the running bits per pixel of both, and what exactness costs."""
        bpp = {name: round(value, 5) for name, value in self.means.values().items()}
        return {"bpp": bpp, "cost": round(bpp["exact"] / max(bpp["transformers"], 1e-9) - 1, 4)}

    def record(self) -> dict[str, Any]:
        """Return the figures."""
        return self.watched()


@torch.no_grad()
def _checkerboard(trained: Bottleneck, widths: DicmWidths) -> CheckerboardBottleneck:
    """Return new integer networks of two passes that quantise as a trained bottleneck does."""
    new = CheckerboardBottleneck(widths)
    for name in GAINS:
        getattr(new, name).copy_(getattr(trained, name))
    new.start_scales()
    return new


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
