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

from torch import Tensor, nn

from cdvision.models.dicm.autoencoders import (
    FeatureAnalysis,
    FeatureSynthesis,
    RedundancyDecoder,
    RedundancyEncoder,
)
from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.bottleneck import CheckerboardBottleneck, HyperpriorBottleneck
from cdvision.models.dicm.map_codec import FullCodec, MapCodec
from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.networks.hyper import Latents


class DicmRe(nn.Module):
    """The profile `dicm-re`: sends the rounded latent of redundancy elimination.

    The front maps pixels (N, 3, H, W), RGB 0..255, to features (N, 256, H/4, W/4), and the tail
    those to later stages.
    """

    def __init__(self, front: nn.Module, tail: nn.Module, widths: DicmWidths = PAPER) -> None:
        super().__init__()
        self.front, self.tail, self.widths = front, tail, widths
        self.encoder, self.decoder = RedundancyEncoder(widths), RedundancyDecoder(widths)
        self.bottleneck = HyperpriorBottleneck(widths.filtered, widths.filtered_hyper)

    def transmit(self, features: Tensor, quality: Tensor) -> SentFeatures:
        """Send features (N, 256, h, w) at qualities (N,), 0 to 7, as training does."""
        y, noisy_bits, bits = self.bottleneck(self.encoder(features), quality)
        return SentFeatures(self.decoder(y), noisy_bits, bits)

    def transmit_image(self, image: Tensor, quality: Tensor) -> SentFeatures:
        """Send images (N, 3, H, W), RGB 0..255, as training does."""
        return self.transmit(self.front(image), quality)

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        return self.bottleneck.encode(self.encoder(self.front(image)), quality)

    def decode(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return features (N, 256, H/4, W/4) from what a stream holds."""
        features: Tensor = self.decoder(self.bottleneck.decode(symbols, hyper, quality))
        return features


Redundancy = DicmRe | FullCodec
"""Codecs of `dicm-re`: the paper's, with y1 at 1/32, and the zoo's."""


def redundancy_codec(front: nn.Module, tail: nn.Module, widths: DicmWidths) -> Redundancy:
    """Return the codec of `dicm-re`: with y1 at 1/32 the paper's, at 1/16 ``FullCodec``."""
    return (FullCodec if widths.filtered_stride == 16 else DicmRe)(front, tail, widths)


class Dicm(nn.Module):
    """The profile `dicm`: the features that a `DicmRe` filters, coded by a larger network."""

    def __init__(self, re: Redundancy) -> None:
        super().__init__()
        self.re, self.widths = re, re.widths
        self.analysis = FeatureAnalysis(widths=re.widths)
        self.synthesis = FeatureSynthesis(widths=re.widths)
        self.bottleneck = CheckerboardBottleneck(re.widths)

    @property
    def front(self) -> nn.Module:
        """The front, which RE owns."""
        return self.re.front

    @property
    def tail(self) -> nn.Module:
        """The tail, which RE owns."""
        return self.re.tail

    def transmit(self, features: Tensor, quality: Tensor) -> SentFeatures:
        """Send filtered features (N, 256, h, w) at qualities (N,), 0 to 7, as training does."""
        y, noisy_bits, bits = self.bottleneck(self.analysis(features), quality)
        return SentFeatures(self.synthesis(y), noisy_bits, bits)

    def transmit_image(self, image: Tensor, quality: Tensor) -> SentFeatures:
        """Send images (N, 3, H, W), RGB 0..255, as training does; RE filters at their quality."""
        return self.transmit(self.re.transmit_image(image, quality).features, quality)

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 64."""
        # The codec reads what a receiver of `dicm-re` would have: f2 of the rounded y1.
        first = self.re.encode(image, quality)
        filtered = self.re.decode(first.symbols, first.hyper, quality)
        return self.bottleneck.encode(self.analysis(filtered), quality)

    def decode(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Return features (N, 256, H/4, W/4) from what a stream holds."""
        features: Tensor = self.synthesis(self.bottleneck.decode(symbols, hyper, quality))
        return features


DicmCodec = DicmRe | Dicm | MapCodec
