"""What the codecs of Detectron2's zoo share: one map at 1/16, with hyper-prior and context.

::

    image ─ analysis ─ y (C)@1/16 ─ bottleneck, as ``networks.latent_model`` draws it ─▶ STREAM
    STREAM ─▶ y ─ synthesis ─ res2 256@1/4 ─ the rest of any R50 model of the zoo

Two codecs fill it in: ``FullCodec``, the model `dicm-re` (the paper's sender: stem, res2, RE), and
``LightCodec``, the model `dicm-light`, whose sender reads pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.dicm.autoencoders import RedundancyDecoder, RedundancyEncoder
from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.networks.hyper import Latents
from cdvision.networks.latent_model import Analysis, LatentEncoder, LatentModel
from cdvision.training.transmission import transmit

Size = tuple[int, int]  # height and width in pixels


class Passed(Analysis):
    """The analysis of a bottleneck whose map is ``y`` already."""

    def __init__(self, features: int, channels: int) -> None:
        nn.Module.__init__(self)

    def forward(self, features: Tensor) -> Tensor:
        """Return what comes."""
        return features


class MapCodec(nn.Module, ABC):
    """Base of both codecs.

    Args:
        front: pixels (N, 3, H, W), RGB 0..255, to features (N, 256, H/4, W/4).
        tail: those features to the stages behind them.
        widths: channels of the parts.
    """

    def __init__(self, front: nn.Module, tail: nn.Module, widths: DicmWidths) -> None:
        super().__init__()
        self.front, self.tail, self.widths = front, tail, widths
        encoder = LatentEncoder(widths.filtered, widths.filtered, analysis=Passed)
        self.bottleneck = LatentModel(encoder, widths.filtered)

    @abstractmethod
    def analyse(self, image: Tensor) -> Tensor:
        """Map images (N, 3, H, W), RGB 0..255, to ``y`` (N, C, H/16, W/16), not yet scaled."""

    @abstractmethod
    def seen(self, image: Tensor, size: Size) -> Tensor:
        """Return what of native photos (N, 3, H, W) is coded for networks that see ``size``."""

    @abstractmethod
    def synthesise(self, y: Tensor, quality: Tensor, size: Size | None = None) -> Tensor:
        """Map ``y`` (N, C, h, w) at qualities (N,) to features (N, 256, 4h, 4w).

        ``size`` is what the decoded photo is enlarged to before its features, where a codec can.
        """

    def transmit_image(
        self, image: Tensor, quality: Tensor, size: Size | None = None
    ) -> SentFeatures:
        """Send images (N, 3, H, W), RGB 0..255, at qualities (N,), 0 to 7, as training does."""
        return self.transmit_map(self.analyse(image), quality, size)

    def transmit_map(self, y: Tensor, quality: Tensor, size: Size | None = None) -> SentFeatures:
        """Send ``y`` (N, C, h, w) as training does."""
        # Half precision can count no bits: its steps are larger than a symbol's share.
        with torch.autocast(y.device.type, enabled=False):
            sent = transmit(self.bottleneck, y.float(), quality)
        return SentFeatures(self.synthesise(sent.y, quality, size), sent.noisy_bits, sent.bits)

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        return self.bottleneck.encode_features(self.analyse(image), quality)

    def decode(
        self, symbols: Tensor, hyper: Tensor, quality: Tensor, size: Size | None = None
    ) -> Tensor:
        """Return features (N, 256, H/4, W/4) from what a stream holds."""
        y = self.bottleneck.dequantiser(symbols, hyper, quality)
        return self.synthesise(y, quality, size)


class FullCodec(MapCodec):
    """`dicm-re` at 1/16: the camera runs stem, res2 and the RE encoder.

    Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025, whose y1 lies at 1/32; hyper-prior
    and context in place of its factorised prior.
    """

    def __init__(self, front: nn.Module, tail: nn.Module, widths: DicmWidths = PAPER) -> None:
        super().__init__(front, tail, widths)
        self.encoder, self.decoder = RedundancyEncoder(widths), RedundancyDecoder(widths)

    def analyse(self, image: Tensor) -> Tensor:
        """Run stem, res2 and RE encoder."""
        y: Tensor = self.encoder(self.front(image))
        return y

    def seen(self, image: Tensor, size: Size) -> Tensor:
        """Enlarge photos before they are coded: their features are what is coded."""
        return enlarged(image, size)

    def transmit(self, features: Tensor, quality: Tensor) -> SentFeatures:
        """Send features (N, 256, h, w) at qualities (N,), 0 to 7, as training does."""
        return self.transmit_map(self.encoder(features), quality)

    def synthesise(self, y: Tensor, quality: Tensor, size: Size | None = None) -> Tensor:
        """Run the RE decoder; the photo had its ``size`` before it was coded."""
        features: Tensor = self.decoder(y)
        return features


def enlarged(image: Tensor, size: Size) -> Tensor:
    """Resample (N, 3, H, W) bilinearly to (height, width), as Detectron2 enlarges photos."""
    return F.interpolate(image, size, mode="bilinear", align_corners=False)
