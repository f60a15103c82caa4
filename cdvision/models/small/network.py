"""The model ``small``: one stream of two layers, two networks.

::

    layer 1, what is where: a map
    RGB ─ NanoDet front ─ 116@1/8, 232@1/16 ─ analysis ─ y 128@1/16 ─ gain[q] ─┐
                   ┌─ round(· - mean) ─▶ symbols ──────────────────────────────┤
                   └─ hyper-analysis ─ round ─▶ z ─────────────────────────────┘
    z ─ integer hyper-decoder ─▶ scale index of every symbol          (exact: chooses the tables)
    z ─ mean network ─┬▶ mean                                       (float: never touches the bits)
    neighbours of y ──┘  phase by phase, see ``context``
    symbols + mean ─ rescale[q] ─▶ y ─ tap ─▶ 116@1/8, 232@1/16 ─▶ NanoDet tail ─▶ boxes, masks

    layer 0, what the picture shows: a vector, see ``descriptor``
    RGB 224² ─ MobileNet ─ pool ─ describe ─▶ symbols ─ tap ─▶ 1280 ─▶ classes
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.mask_head import MaskHead
from cdvision.models.small.descriptor import DescriptorEncoder, DescriptorTap
from cdvision.models.small.nanodet import (
    COARSE_CHANNELS,
    FINE_CHANNELS,
    PYRAMID_CHANNELS,
    DetectorFeatures,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.networks.hyper import Latents
from cdvision.networks.latent_model import LATENT_CHANNELS, Analysis, LatentEncoder, LatentModel
from cdvision.networks.layers import ResidualBlock, expand_and_shuffle
from cdvision.networks.mobilenet_v2 import EMBEDDING

DETECTOR, CLASSIFIER = "nanodet_plus_m", "mobilenet_v2"  # the tails
CLASSES = 1000  # of ImageNet
WINDOW = 224  # pixels: side of what the classifier looks at
PACKED_CHANNELS = 4 * FINE_CHANNELS + COARSE_CHANNELS


class TwoScaleAnalysis(Analysis):
    """The analysis of packed features, which also reads them where they were not packed."""

    def of_scales(self, features: DetectorFeatures) -> Tensor:
        """Return what ``forward`` returns of ``pack(features)``.

        The same sums as a strided convolution at one scale and a plain one at the other: engines
        spend 1.3 ms on the transposition that packing is.
        """
        hidden = self.squeeze.activation(_on_scales(self.squeeze.conv, features))
        y: Tensor = _on_scales(self.linear, features) + self.project(self.context(hidden))
        return y


def _on_scales(conv: nn.Conv2d, features: DetectorFeatures) -> Tensor:
    fine, coarse = torch.split(conv.weight, [4 * FINE_CHANNELS, COARSE_CHANNELS], dim=1)
    kernel = fine.reshape(len(fine), FINE_CHANNELS, 2, 2)
    # The margin meets no whole block; with it, exporters see that both maps have one size.
    strided = F.conv2d(F.pad(features.fine, (0, 1, 0, 1)), kernel, stride=2)
    return strided + F.conv2d(features.coarse, coarse, conv.bias)


class SmallEncoder(LatentEncoder):
    """Pixels to latents: the sender's network of the map."""

    def __init__(self) -> None:
        super().__init__(PACKED_CHANNELS, analysis=TwoScaleAnalysis)
        self.front = NanoDetFront()

    def features(self, image: Tensor) -> Tensor:
        """Return what the analysis reads, both scales packed: (N, 696, H/16, W/16).

        Stage 2 is the detector's own; stage 3 has learned what the latents can carry.
        """
        return pack(self.front(image))


class DetectorTap(nn.Module):
    """Latents at 1/16 to the detector's features at two scales.

    ::

        y (C)@1/16 ─ residual blocks ─┬─ 1x1 ─ shuffle x2 ─▶ fine 116@1/8
                                      └─ 1x1 ──────────────▶ coarse 232@1/16

    Everything nonlinear happens at 1/16, where a weight costs a quarter of what it costs at 1/8.
    """

    def __init__(self, channels: int, *, hidden: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.context = nn.Sequential(*(ResidualBlock(channels, hidden) for _ in range(blocks)))
        self.fine = nn.Conv2d(channels, 4 * FINE_CHANNELS, 1)
        self.coarse = nn.Conv2d(channels, COARSE_CHANNELS, 1)

    def forward(self, y: Tensor) -> DetectorFeatures:
        """Map (N, C, h, w) to (N, 116, 2h, 2w) and (N, 232, h, w)."""
        y = self.context(y)
        return DetectorFeatures(expand_and_shuffle(self.fine, y, 2), self.coarse(y))


class Small(LatentModel):
    """All parts of the model, as training and the PyTorch engine hold them."""

    encoder: SmallEncoder

    def __init__(self) -> None:
        super().__init__(SmallEncoder())
        self.descriptor = DescriptorEncoder()
        self.taps = nn.ModuleDict(
            {DETECTOR: DetectorTap(LATENT_CHANNELS), CLASSIFIER: DescriptorTap()}
        )
        self.tails = nn.ModuleDict(
            {DETECTOR: NanoDetTail(), CLASSIFIER: nn.Linear(EMBEDDING, CLASSES)}
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
        self.masks = MaskHead(FINE_CHANNELS, PYRAMID_CHANNELS)

    @property
    def detector_tail(self) -> NanoDetTail:
        """The tail and head that detect."""
        return cast(NanoDetTail, self.tails[DETECTOR])

    @property
    def classifier_tail(self) -> nn.Linear:
        """The classifier's last layer."""
        return cast(nn.Linear, self.tails[CLASSIFIER])

    @property
    def detector_tap(self) -> DetectorTap:
        """The tap of the detector."""
        return cast(DetectorTap, self.taps[DETECTOR])

    @property
    def classifier_tap(self) -> DescriptorTap:
        """The tap of the classifier."""
        return cast(DescriptorTap, self.taps[CLASSIFIER])

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the map's latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        analysis = cast(TwoScaleAnalysis, self.encoder.analysis)
        y = analysis.of_scales(self.encoder.front(image))
        return self.encode_scaled(self.encoder.scale(y, quality), quality)


def pack(features: DetectorFeatures) -> Tensor:
    """Lay both scales over each other: (N, 696, H/16, W/16), 2x2 blocks of the finer one first."""
    return torch.cat([F.pixel_unshuffle(features.fine, 2), features.coarse], dim=1)


def unpack(packed: Tensor) -> DetectorFeatures:
    """Undo ``pack``."""
    fine, coarse = torch.split(packed, [4 * FINE_CHANNELS, COARSE_CHANNELS], dim=1)
    return DetectorFeatures(F.pixel_shuffle(fine, 2), coarse)
