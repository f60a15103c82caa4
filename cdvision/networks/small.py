"""The model ``small``: one stream, two networks.

::

    RGB ─┬ NanoDet front 116@1/8 ──┬─ analysis ─ y 128@1/16 ─ gain[q] ─┬─ round(· - mean) ─▶ symbols
         └ MobileNet front 32@1/8 ─┘                                  └─ hyper-analysis ─ round ─▶ z
    z ─ integer hyper-decoder ─▶ scale index of every symbol          (exact: chooses the tables)
    z ─ mean network ─┬▶ mean                                       (float: never touches the bits)
    neighbours of y ──┘  phase by phase, see ``context``
    symbols + mean ─ rescale[q] ─▶ y ─┬─ tap ─▶ 116@1/8 ─▶ NanoDet tail ─▶ boxes
                                      └─ tap ─▶ 32@28²  ─▶ MobileNet tail ─▶ classes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.mask_head import MaskHead
from cdvision.networks.context import PHASES, SpatialPrediction, join, split
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.hyper import HyperAnalysis, Latents, MeanNetwork
from cdvision.networks.integer_hyper import IntegerHyperDecoder
from cdvision.networks.layers import ConvAct, ResidualBlock, zero_init
from cdvision.networks.mobilenet_v2 import FRONT_CHANNELS as CLASSIFIER_CHANNELS
from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail
from cdvision.networks.nanodet import (
    FRONT_CHANNELS,
    PYRAMID_CHANNELS,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.networks.scales import (
    HYPER_BOUND,
    QUALITIES,
    SCALE_LEVELS,
)
from cdvision.networks.taps import ResamplingTap, UpsamplingTap

LATENT_CHANNELS = 128
HYPER_CHANNELS = 24


class Analysis(nn.Module):
    """Features at 1/8 to latents at 1/16: a linear path, and a light path with more context."""

    def __init__(self, features: int, channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.linear = nn.Conv2d(4 * features, channels, 1)
        self.squeeze = ConvAct(4 * features, hidden)
        self.context = ResidualBlock(hidden, hidden)
        self.project = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, features, 2h, 2w) to (N, channels, h, w)."""
        hidden = self.squeeze.activation(_on_squares(self.squeeze.conv, features))
        y: Tensor = _on_squares(self.linear, features) + self.project(self.context(hidden))
        return y


def _on_squares(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to the 2x2 squares of a map, as if ``pixel_unshuffle`` came first.

    The same sums as one strided convolution: engines spend 1.3 ms on the other's transposition.
    """
    weight = conv.weight.reshape(conv.out_channels, -1, 2, 2)
    return F.conv2d(x, weight, conv.bias, stride=2)


class SmallEncoder(nn.Module):
    """Pixels to latents: the sender's network."""

    def __init__(self) -> None:
        super().__init__()
        self.front = NanoDetFront()
        self.classifier_front = MobileNetFront()
        self.analysis = Analysis(FRONT_CHANNELS + CLASSIFIER_CHANNELS, LATENT_CHANNELS)
        self.hyper_analysis = HyperAnalysis(LATENT_CHANNELS, HYPER_CHANNELS)
        self.log_gain = nn.Parameter(_initial_log_gain())

    def scaled_latents(self, image: Tensor, quality: Tensor) -> Tensor:
        """Return ``y`` times the gain of each image's quality; ``quality`` is (N,), 0 to 7."""
        return self.scaled_analysis(self.features(image), quality)

    def scaled_analysis(self, features: Tensor, quality: Tensor) -> Tensor:
        """Return the scaled latents of features (N, 148, H/8, W/8)."""
        gain = torch.exp(self.log_gain)[quality][:, :, None, None]
        scaled: Tensor = self.analysis(features) * gain
        return scaled

    def features(self, image: Tensor) -> Tensor:
        """Return both networks' features at 1/8, the detector's first.

        Both, because neither contains the other: from the detector's features alone, the
        classifier's can be predicted to little more than half of their variance.
        """
        return torch.cat([self.front(image), self.classifier_front(image)], dim=1)

    def hyper_latents(self, scaled: Tensor) -> Tensor:
        """Return the hyper-latent before rounding, inside its static range."""
        z: Tensor = self.hyper_analysis(scaled)
        return z.clamp(-HYPER_BOUND, HYPER_BOUND)


class Quantised(NamedTuple):
    """Latents on their way through the quantiser, all (N, 128, H/16, W/16)."""

    residual: Tensor  # scaled latents minus their means
    symbols: Tensor  # the residual, rounded; zero where it is skipped
    scaled: Tensor  # symbols plus their means: what the receiver has, up to the gain


class Dequantiser(nn.Module):
    """Symbols and hyper-latent to dequantised latents: adds the means, undoes the gain."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanNetwork(HYPER_CHANNELS, LATENT_CHANNELS)
        self.prediction = SpatialPrediction(LATENT_CHANNELS, QUALITIES)
        self.log_rescale = nn.Parameter(-_initial_log_gain())

    def quantise(
        self,
        scaled: Tensor,
        hyper: Tensor,
        quality: Tensor,
        sent: Tensor,
        rounding: Callable[[Tensor], Tensor] = torch.round,
    ) -> Quantised:
        """Quantise as the sender does: every phase predicted from what the receiver will have.

        Args:
            scaled: (N, 128, h, w) latents times their gain.
            hyper: (N, 24, ceil(h/4), ceil(w/4)) integers.
            quality: (N,) int64, 0 to 7.
            sent: (N, 128, h, w) bool: which symbols are not skipped.
            rounding: ``torch.round`` or its training twin.
        """
        latents, kept, residuals, symbols = split(scaled), split(sent.float()), {}, {}

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
        """Return ``y`` (N, 128, h, w) from (N, 128, h, w), (N, 24, ceil(h/4), ceil(w/4)), (N,)."""
        received = split(symbols)
        scaled = self.prediction(
            self.mean.phases(hyper, *symbols.shape[2:]),
            quality,
            lambda mean, phase: mean + received[phase],
        )
        return self.rescale(scaled, quality)


def _joined(phases: dict[int, Tensor]) -> Tensor:
    return join(tuple(phases[phase] for phase in range(PHASES)))


class Small(nn.Module):
    """All parts of the model, as training and the PyTorch engine hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SmallEncoder()
        self.dequantiser = Dequantiser()
        self.hyper_decoder = IntegerHyperDecoder(
            HYPER_CHANNELS, LATENT_CHANNELS, hidden=32, qualities=QUALITIES, levels=SCALE_LEVELS
        )
        self.hyper_prior = FactorisedPrior(HYPER_CHANNELS, qualities=QUALITIES, bound=HYPER_BOUND)
        self.taps = nn.ModuleDict(
            {
                "nanodet_plus_m": UpsamplingTap(LATENT_CHANNELS, FRONT_CHANNELS),
                "mobilenet_v2": ResamplingTap(LATENT_CHANNELS, CLASSIFIER_CHANNELS),
            }
        )
        self.tails = nn.ModuleDict(
            {"nanodet_plus_m": NanoDetTail(), "mobilenet_v2": MobileNetTail()}
        )
        self.masks: MaskHead | None = None

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Small:
        """Build the model of a state dict: with a mask branch where there is one in it."""
        model = cls()
        if any(name.startswith("masks.") for name in state):
            model.add_masks()
        model.load_state_dict(state)
        return model

    def add_masks(self) -> None:
        """Add a mask branch, with new weights; it is trained when all else is finished."""
        self.masks = MaskHead(FRONT_CHANNELS, PYRAMID_CHANNELS)

    @property
    def detector_tail(self) -> NanoDetTail:
        """The tail and head that detect."""
        return cast(NanoDetTail, self.tails["nanodet_plus_m"])

    @property
    def classifier_tail(self) -> MobileNetTail:
        """The tail and head that classify."""
        return cast(MobileNetTail, self.tails["mobilenet_v2"])

    @property
    def detector_tap(self) -> UpsamplingTap:
        """The tap of the detector."""
        return cast(UpsamplingTap, self.taps["nanodet_plus_m"])

    @property
    def classifier_tap(self) -> ResamplingTap:
        """The tap of the classifier."""
        return cast(ResamplingTap, self.taps["mobilenet_v2"])

    def scale_index(self, hyper: Tensor, quality: Tensor, like: Tensor) -> Tensor:
        """Return the table of every symbol (N, 128, h, w), cropped to the size of ``like``."""
        index: Tensor = self.hyper_decoder(hyper, quality)
        return index[:, :, : like.shape[2], : like.shape[3]]

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        scaled = self.encoder.scaled_latents(image, quality)
        hyper = torch.round(self.encoder.hyper_latents(scaled))
        sent = self.scale_index(hyper, quality, scaled) > 0
        quantised = self.dequantiser.quantise(scaled, hyper, quality, sent)
        return Latents(quantised.symbols, hyper)


def _initial_log_gain() -> Tensor:
    """Steps of about 30 (quality 1) to 2 (quality 8) standard deviations of a feature."""
    per_quality = torch.linspace(-3.5, -0.75, QUALITIES)
    return per_quality[:, None].expand(QUALITIES, LATENT_CHANNELS).clone()
