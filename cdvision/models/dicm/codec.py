"""DICM: ResNet-50 features filtered, coded, and handed to the rest of the network.

::

    image ─ front ─ f1 256@1/4 ─ RE encoder ─ y1 192@1/32 ─ bottleneck ─▶ stream of `dicm-re`
                                                                └─ RE decoder ─ f2 256@1/4
    f2 ─ analysis ─ y2 192@1/16 ─ bottleneck, z 192@1/64 ─▶ stream of `dicm`
                                       └─ synthesis ─ f3 256@1/4 ─ tail ─ heads

f2 is a function of the rounded y1, so y1 alone is a complete stream: `dicm-re`, whose sender is
cheap. `dicm` codes f2 again, as the paper does.

Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025, with one difference: all that chooses a
probability table is an integer network, so every machine decodes the same.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from cdvision.models.dicm.bottleneck import Bottleneck, CheckerboardBottleneck, HyperpriorBottleneck
from cdvision.models.dicm.feature_codec import FeatureAnalysis, FeatureSynthesis
from cdvision.models.dicm.redundancy import RedundancyDecoder, RedundancyEncoder
from cdvision.models.dicm.widths import PAPER, DicmWidths
from cdvision.networks.hyper import Latents


class Transmission(NamedTuple):
    """Decoded features of a batch (N, 256, h, w), and what they cost; bits are (N,)."""

    features: Tensor
    noisy_bits: Tensor  # differentiable
    bits: Tensor  # of the symbols that are really sent


class DicmRe(nn.Module):
    """The profile `dicm-re`: sends the rounded latent of redundancy elimination.

    Args:
        front: pixels (N, 3, H, W), RGB 0..255, to features (N, 256, H/4, W/4).
        tail: those features to the network's later stages.
        widths: channels.
    """

    def __init__(self, front: nn.Module, tail: nn.Module, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        self.front, self.tail, self.widths = front, tail, widths
        self.encoder, self.decoder = RedundancyEncoder(widths), RedundancyDecoder(widths)
        self.bottleneck: Bottleneck = HyperpriorBottleneck(widths.filtered, widths.filtered_hyper)

    def transmit(self, features: Tensor, quality: Tensor) -> Transmission:
        """Send features (N, 256, h, w) at qualities (N,), 0 to 7, as training does."""
        received = self.bottleneck(self.encoder(features), quality)
        return Transmission(self.decoder(received.y), received.noisy_bits, received.bits)

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        return self.bottleneck.encode(self.encoder(self.front(image)), quality)

    def decode(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return features (N, 256, H/4, W/4) from what a stream holds."""
        features: Tensor = self.decoder(self.bottleneck.decode(symbols, hyper, quality))
        return features

    def filtered(self, image: Tensor, quality: Tensor) -> Tensor:
        """Return f2 of images: what a receiver of `dicm-re` would have."""
        latents = self.encode(image, quality)
        return self.decode(latents.symbols, latents.hyper, quality)


class Dicm(nn.Module):
    """The profile `dicm`: the filtered features, coded by a second, larger network.

    Args:
        re: a trained `DicmRe`; its front and tail are this model's.
    """

    def __init__(self, re: DicmRe) -> None:
        super().__init__()
        self.re = re
        self.analysis = FeatureAnalysis(widths=re.widths)
        self.synthesis = FeatureSynthesis(widths=re.widths)
        self.bottleneck: Bottleneck = CheckerboardBottleneck(re.widths)

    @property
    def front(self) -> nn.Module:
        """The front, which RE owns."""
        return self.re.front

    @property
    def tail(self) -> nn.Module:
        """The tail, which RE owns."""
        return self.re.tail

    def transmit(self, features: Tensor, quality: Tensor) -> Transmission:
        """Send filtered features (N, 256, h, w) at qualities (N,), 0 to 7, as training does."""
        received = self.bottleneck(self.analysis(features), quality)
        return Transmission(self.synthesis(received.y), received.noisy_bits, received.bits)

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 64."""
        return self.bottleneck.encode(self.analysis(self.re.filtered(image, quality)), quality)

    def decode(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return features (N, 256, H/4, W/4) from what a stream holds."""
        features: Tensor = self.synthesis(self.bottleneck.decode(symbols, hyper, quality))
        return features


DicmCodec = DicmRe | Dicm
