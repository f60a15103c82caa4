"""Bottlenecks: a real-valued latent to integers and back, with the bits that they cost.

::

    y ─ gain[q] ─┬─ hyper-encoder ─ round ─▶ z ─ integer network ─▶ scale index  (exact)
                 └─ round(· - mean) ─▶ symbols         └─ mean network ─▶ mean   (float)
    symbols + mean ─ rescale[q] ─▶ y
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.checkerboard_mean import FIRST, CheckerboardMean, odd_cells
from cdvision.models.dicm.integer_checkerboard import IntegerCheckerboard
from cdvision.models.dicm.transformer import HyperEncoder
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.hyper import HyperAnalysis, Latents, MeanNetwork
from cdvision.networks.integer_hyper import IntegerHyperDecoder
from cdvision.networks.quantisation import (
    add_uniform_noise,
    bits_per_image,
    gaussian_bits,
    round_straight_through,
)
from cdvision.networks.scales import HYPER_BOUND, QUALITIES, SCALE_LEVELS, index_of, scale_of

Rounding = Callable[[Tensor], Tensor]
# Deviation of the symbols at quality 1 and 8 at the start, of a latent of unit variance. Coarser
# steps would send nothing at first, and what is never sent is never learned from.
FIRST_GAINS = 1.0, 4.0


class QuantisedLatent(NamedTuple):
    """A latent on its way through the quantiser, all (N, C, h, w)."""

    residual: Tensor  # scaled latent minus its mean
    symbols: Tensor  # the residual, rounded; zero where it is skipped
    scale_index: Tensor  # 0 is skipped
    scaled: Tensor  # symbols plus mean: what the receiver has, up to the gain


class Bottleneck(nn.Module, ABC):
    """What both bottlenecks share: gains, the hyper-latent and its prior."""

    def __init__(self, channels: int, hyper_channels: int) -> None:
        super().__init__()
        low, high = (math.log(gain) for gain in FIRST_GAINS)
        start = torch.linspace(low, high, QUALITIES)[:, None].expand(-1, channels)
        self.log_gain = nn.Parameter(start.clone())
        self.log_rescale = nn.Parameter(-start)
        self.mean = MeanNetwork(hyper_channels, channels)
        self.hyper_prior = FactorisedPrior(hyper_channels, qualities=QUALITIES, bound=HYPER_BOUND)

    @abstractmethod
    def hyper(self, scaled: Tensor) -> Tensor:
        """Return the hyper-latent (N, C_z, ceil(h/4), ceil(w/4)) of a scaled latent, unrounded."""

    @abstractmethod
    def quantise(
        self, scaled: Tensor, z: Tensor, quality: Tensor, rounding: Rounding = torch.round
    ) -> QuantisedLatent:
        """Quantise a scaled latent given the hyper-latent's integers."""

    @abstractmethod
    def decode(self, symbols: Tensor, z: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` (N, C, h, w) from symbols, hyper-latent and qualities (N,)."""

    def encode(self, y: Tensor, quality: Tensor) -> Latents:
        """Return the integers, held in float, that are sent for ``y`` (N, C, h, w)."""
        scaled = y * self._factor(self.log_gain, quality)
        z = torch.round(self.hyper(scaled).clamp(-HYPER_BOUND, HYPER_BOUND))
        return Latents(self.quantise(scaled, z, quality).symbols, z)

    def forward(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Send ``y`` as in training: return what arrives, differentiable and real bits (N,)."""
        # Half precision can count no bits: its steps are larger than a symbol's share.
        with torch.autocast(y.device.type, enabled=False):
            return self._send(y.float(), quality)

    def _send(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = y * self._factor(self.log_gain, quality)
        bounded = self.hyper(scaled).clamp(-HYPER_BOUND, HYPER_BOUND)
        z, limit = round_straight_through(bounded), HYPER_BOUND + 0.5
        noisy_z = add_uniform_noise(bounded).clamp(-limit, limit)
        sent = self.quantise(scaled, z, quality, round_straight_through)
        scale = scale_of(sent.scale_index)
        # Rounding has no slope: the rate is learned from noise as wide as a step instead.
        noisy = gaussian_bits(add_uniform_noise(sent.residual), scale)
        bits = gaussian_bits(sent.symbols, scale) * (sent.scale_index > 0)
        return (
            self.rescale(sent.scaled, quality),
            bits_per_image(noisy, self.hyper_prior.bits(noisy_z, quality)),
            bits_per_image(bits, self.hyper_prior.bits(z, quality)),
        )

    def rescale(self, scaled: Tensor, quality: Tensor) -> Tensor:
        """Undo the gain of each image's quality."""
        return scaled * self._factor(self.log_rescale, quality)

    @staticmethod
    def _factor(logarithm: Tensor, quality: Tensor) -> Tensor:
        return torch.exp(logarithm)[quality][:, :, None, None]

    def _first_scales(self) -> Tensor:
        """Scale indices (qualities, C) of a latent of unit variance under the gains."""
        return index_of(torch.exp(self.log_gain.detach())).clamp_min(1.0)


class HyperpriorBottleneck(Bottleneck):
    """One pass: every scale is told by the hyper-latent."""

    def __init__(self, channels: int, hyper_channels: int = 24) -> None:
        super().__init__(channels, hyper_channels)
        self.hyper_analysis = HyperAnalysis(channels, hyper_channels)
        self.hyper_decoder = IntegerHyperDecoder(
            hyper_channels, channels, hidden=32, qualities=QUALITIES, levels=SCALE_LEVELS
        )
        # The decoder has a bias for each of the 2x2 cells that its last layer gives at once.
        start = self._first_scales().repeat_interleave(4, dim=1)
        self.hyper_decoder.quality_bias.data.copy_(start)

    def hyper(self, scaled: Tensor) -> Tensor:
        """Return the hyper-latent before rounding."""
        z: Tensor = self.hyper_analysis(scaled)
        return z

    def quantise(
        self, scaled: Tensor, z: Tensor, quality: Tensor, rounding: Rounding = torch.round
    ) -> QuantisedLatent:
        """Quantise in one pass."""
        height, width = scaled.shape[2:]
        index = self.hyper_decoder(z, quality)[:, :, :height, :width]
        mean = self.mean(z, height, width)
        residual = scaled - mean
        symbols = rounding(residual) * (index > 0)
        return QuantisedLatent(residual, symbols, index, symbols + mean)

    def decode(self, symbols: Tensor, z: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` (N, C, h, w)."""
        return self.rescale(symbols + self.mean(z, *symbols.shape[2:]), quality)


class CheckerboardBottleneck(Bottleneck):
    """Two passes: the even cells are coded, and predicted, knowing the odd ones.

    The hyper-encoder is the paper's transformer, which only the sender runs.
    """

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        super().__init__(widths.latents, widths.hyper)
        self.hyper_encoder = HyperEncoder(widths)
        # The paper's float transformer would choose other tables on other machines.
        self.integer = IntegerCheckerboard(
            widths.hyper,
            widths.latents,
            qualities=QUALITIES,
            levels=SCALE_LEVELS,
            bound=HYPER_BOUND,
        )
        self.context = CheckerboardMean(widths.latents, QUALITIES)
        for bias in (self.integer.first_bias, self.integer.second_bias):
            bias.data.copy_(self._first_scales())

    def hyper(self, scaled: Tensor) -> Tensor:
        """Return the hyper-latent before rounding."""
        z: Tensor = self.hyper_encoder(scaled)
        return z

    def quantise(
        self, scaled: Tensor, z: Tensor, quality: Tensor, rounding: Rounding = torch.round
    ) -> QuantisedLatent:
        """Quantise in two passes."""
        features, odd = self.integer.features(z, scaled), odd_cells(scaled)
        passes: list[tuple[Tensor, Tensor, Tensor]] = []

        def resolve(mean: Tensor, phase: int) -> Tensor:
            index = (
                self.integer.first_index(features, quality)
                if phase == FIRST
                else self.integer.second_index(features, passes[0][1], quality)
            )
            residual = scaled - mean
            symbols = rounding(residual) * (index > 0)
            passes.append((residual, symbols, index))
            return symbols + mean

        decoded = self.context(self.mean(z, *scaled.shape[2:]), quality, resolve)
        # Both passes compute whole maps; each counts on its own colour of the board.
        residual, symbols, index = (
            first * odd + second * (1 - odd) for first, second in zip(*passes, strict=True)
        )
        return QuantisedLatent(residual, symbols, index, decoded)

    def decode(self, symbols: Tensor, z: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` (N, C, h, w)."""
        base = self.mean(z, *symbols.shape[2:])
        return self.rescale(self.context(base, quality, lambda mean, _: symbols + mean), quality)
