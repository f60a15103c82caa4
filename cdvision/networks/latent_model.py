"""What every model with one map of latents is made of, whatever its features come from.

::

    features ─ analysis ─ y (C)@1/16 ─ gain[q] ─┬─ round(· - mean) ─▶ symbols
                                               └─ hyper-analysis ─ round ─▶ z
    z ─ integer hyper-decoder ─▶ scale index of every symbol          (exact: chooses the tables)
    z ─ mean network ─┬▶ mean                                       (float: never touches the bits)
    neighbours of y ──┘  phase by phase, see ``context``
    symbols + mean ─ rescale[q] ─▶ y
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cdvision.networks.context import PHASES, SpatialPrediction, join, split
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.hyper import HyperAnalysis, Latents, MeanNetwork
from cdvision.networks.integer_hyper import IntegerHyperDecoder
from cdvision.networks.layers import ConvAct, ResidualBlock, zero_init
from cdvision.networks.scales import HYPER_BOUND, QUALITIES, SCALE_LEVELS

LATENT_CHANNELS = 128
HYPER_CHANNELS = 24
LATENT_STRIDE, HYPER_STRIDE = 16, 64  # pixels
HYPER_CELL = HYPER_STRIDE // LATENT_STRIDE  # latents across one hyper-latent


class Analysis(nn.Module):
    """Features to latents, cell for cell: a linear path, and a light path with more context."""

    def __init__(self, features: int, channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.linear = nn.Conv2d(features, channels, 1)
        self.squeeze = ConvAct(features, hidden)
        self.context = ResidualBlock(hidden, hidden)
        self.project = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, features, h, w) to (N, channels, h, w)."""
        y: Tensor = self.linear(features) + self.project(self.context(self.squeeze(features)))
        return y


class LatentEncoder(nn.Module):
    """Features at 1/16 to scaled latents and their hyper-latent: what is trained of a sender."""

    def __init__(
        self, features: int, channels: int = LATENT_CHANNELS, *, analysis: type[Analysis] = Analysis
    ) -> None:
        super().__init__()
        self.analysis = analysis(features, channels)
        self.hyper_analysis = HyperAnalysis(channels, HYPER_CHANNELS)
        self.log_gain = nn.Parameter(_initial_log_gain(channels))

    def scaled_analysis(self, features: Tensor, quality: Tensor) -> Tensor:
        """Return the latents times the gain of each image's quality (N,), 0 to 7."""
        return self.scale(self.analysis(features), quality)

    def scale(self, y: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` (N, C, h, w) times the gain of each image's quality (N,)."""
        return y * torch.exp(self.log_gain)[quality][:, :, None, None]

    def hyper_latents(self, scaled: Tensor) -> Tensor:
        """Return the hyper-latent before rounding, inside its static range."""
        z: Tensor = self.hyper_analysis(scaled)
        return z.clamp(-HYPER_BOUND, HYPER_BOUND)


class Quantised(NamedTuple):
    """Latents on their way through the quantiser, all (N, C, H/16, W/16)."""

    residual: Tensor  # scaled latents minus their means
    symbols: Tensor  # the residual, rounded; zero where it is skipped
    scaled: Tensor  # symbols plus their means: what the receiver has, up to the gain


class Dequantiser(nn.Module):
    """Symbols and hyper-latent to dequantised latents: adds the means, undoes the gain."""

    def __init__(self, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.mean = MeanNetwork(HYPER_CHANNELS, channels)
        self.prediction = SpatialPrediction(channels, QUALITIES)
        self.log_rescale = nn.Parameter(-_initial_log_gain(channels))

    def quantise(
        self,
        scaled: Tensor,
        hyper: Tensor,
        quality: Tensor,
        sent: Tensor,
        rounding: Callable[[Tensor], Tensor] = torch.round,
    ) -> Quantised:
        """Quantise (N, C, h, w) latents times their gain, as the sender does.

        ``sent`` (N, C, h, w) says which symbols are not skipped; ``rounding`` may be the training
        twin of ``torch.round``.
        """
        latents, kept, residuals, symbols = split(scaled), split(sent.float()), {}, {}

        # Each phase is predicted from what the receiver will have of the phases before it.
        def resolve(mean: Tensor, phase: int) -> Tensor:
            residuals[phase] = latents[phase] - mean
            symbols[phase] = rounding(residuals[phase]) * kept[phase]
            return symbols[phase] + mean

        decoded = self.prediction(self.mean.phases(hyper, *scaled.shape[2:]), quality, resolve)
        return Quantised(_joined(residuals), _joined(symbols), decoded)

    def rescale(self, scaled: Tensor, quality: Tensor) -> Tensor:
        """Undo the gain of each image's quality."""
        return scaled * torch.exp(self.log_rescale)[quality][:, :, None, None]

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` (N, C, h, w) from (N, C, h, w), (N, 24, ceil(h/4), ceil(w/4)), (N,)."""
        received = split(symbols)
        scaled = self.prediction(
            self.mean.phases(hyper, *symbols.shape[2:]),
            quality,
            lambda mean, phase: mean + received[phase],
        )
        return self.rescale(scaled, quality)


def _joined(phases: dict[int, Tensor]) -> Tensor:
    return join(tuple(phases[phase] for phase in range(PHASES)))


class LatentModel(nn.Module):
    """Encoder, dequantiser and probabilities; every model adds taps of its own."""

    encoder: LatentEncoder

    def __init__(self, encoder: LatentEncoder, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        self.encoder = encoder
        self.dequantiser = Dequantiser(channels)
        self.hyper_decoder = IntegerHyperDecoder(
            HYPER_CHANNELS, channels, hidden=32, qualities=QUALITIES, levels=SCALE_LEVELS
        )
        self.hyper_prior = FactorisedPrior(HYPER_CHANNELS, qualities=QUALITIES, bound=HYPER_BOUND)

    def scale_index(self, hyper: Tensor, quality: Tensor, like: Tensor) -> Tensor:
        """Return the table of every symbol (N, C, h, w), cropped to the size of ``like``."""
        index: Tensor = self.hyper_decoder(hyper, quality)
        return index[:, :, : like.shape[2], : like.shape[3]]

    def encode_features(self, features: Tensor, quality: Tensor) -> Latents:
        """Return the latents of the map that the analysis reads; ``quality`` is (N,), 0 to 7."""
        return self.encode_scaled(self.encoder.scaled_analysis(features, quality), quality)

    def encode_scaled(self, scaled: Tensor, quality: Tensor) -> Latents:
        """Return the latents of ``y`` times its gain (N, C, h, w)."""
        hyper = torch.round(self.encoder.hyper_latents(scaled))
        sent = self.scale_index(hyper, quality, scaled) > 0
        quantised = self.dequantiser.quantise(scaled, hyper, quality, sent)
        return Latents(quantised.symbols, hyper)


def _initial_log_gain(channels: int) -> Tensor:
    # Steps of about 30 (quality 1) to 2 (quality 8) standard deviations of a feature.
    per_quality = torch.linspace(-3.5, -0.75, QUALITIES)
    return per_quality[:, None].expand(QUALITIES, channels).clone()
