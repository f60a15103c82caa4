"""The paper's whole entropy model of y2, in float: what the integer one is held against.

::

    y · gain ─ hyper-encoder ─ round ─▶ z ─ hyper-decoder ─▶ side information ─┬─▶ mean, scale ─┐
    symbols of the odd cells ─ context transformer ───────────────────────────┘                │
    y · gain ─ round(· - mean) ─▶ symbols ────────────────────── bits under Gaussians ◀─────────┘

No stream is coded with it: its scales come out of float networks, so another machine may compute
others and decode garbage.

Source: Qian et al., "Entroformer", ICLR 2022; Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.dicm.entroformer import (
    ContextTransformer,
    FloatHyperDecoder,
    GaussianParameters,
    HyperEncoder,
    ParameterNetwork,
    first_pass,
)
from cdvision.models.dicm.widths import PAPER, DicmWidths
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.quantisation import (
    add_uniform_noise,
    gaussian_bits,
    round_straight_through,
)
from cdvision.networks.scales import HYPER_BOUND, QUALITIES


class Bits(NamedTuple):
    """What a batch costs, both (N,)."""

    noisy: Tensor  # differentiable
    sent: Tensor  # of the rounded symbols


class FloatEntropy(nn.Module):
    """Transformers on both sides of the hyper-latent, and between the two passes."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        self.hyper_encoder = HyperEncoder(widths)
        self.hyper_decoder = FloatHyperDecoder(widths)
        self.context = ContextTransformer(widths)
        self.parameters_of = ParameterNetwork(widths)
        self.hyper_prior = FactorisedPrior(widths.hyper, qualities=QUALITIES, bound=HYPER_BOUND)

    def forward(self, scaled: Tensor, quality: Tensor) -> Bits:
        """Return the bits of latents times their gain (N, 192, h, w) at qualities (N,), 0 to 7."""
        height, width = scaled.shape[2:]
        visible = first_pass(height, width).to(scaled.device)
        z = self.hyper_encoder(scaled).clamp(-HYPER_BOUND, HYPER_BOUND)
        side = self.hyper_decoder(round_straight_through(z))[:, :, :height, :width]
        first = self.parameters_of(side, torch.zeros_like(side))
        resolved = round_straight_through(scaled - first.mean) + first.mean
        found = self.parameters_of(side, self.context(resolved, visible))
        limit = HYPER_BOUND + 0.5
        noisy_z = add_uniform_noise(z).clamp(-limit, limit)
        return Bits(
            self._bits(scaled, found, noisy_z, quality, add_uniform_noise),
            self._bits(scaled, found, torch.round(z), quality, torch.round),
        )

    def _bits(
        self,
        scaled: Tensor,
        found: GaussianParameters,
        z: Tensor,
        quality: Tensor,
        rounding: Callable[[Tensor], Tensor],
    ) -> Tensor:
        bits = gaussian_bits(rounding(scaled - found.mean), torch.exp(found.log_scale))
        return bits.flatten(1).sum(1) + self.hyper_prior.bits(z, quality).flatten(1).sum(1)
