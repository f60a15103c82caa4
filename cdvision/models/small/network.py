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

The sender is always NanoDet-Plus-m's front; the receiver may be a wider NanoDet than a camera can
run, with a tap of its own on the same latents.

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
from cdvision.models.small.detector_taps import DetectorTap, WideDetectorTap
from cdvision.models.small.nanodet import (
    COARSE_CHANNELS,
    FINE_CHANNELS,
    PLAIN,
    WIDTHS,
    DetectorFeatures,
    DetectorWidth,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.networks.hyper import Latents
from cdvision.networks.latent_model import LATENT_CHANNELS, Analysis, LatentEncoder, LatentModel
from cdvision.networks.mobilenet_v2 import EMBEDDING

CLASSIFIER = "mobilenet_v2"  # a tail; the other is a detector, ``PLAIN`` or ``WIDE``
CLASSES = 1000  # of ImageNet
WINDOW = 224  # pixels: side of what the classifier looks at
PACKED_CHANNELS = WIDTHS[PLAIN].packed


class TwoScaleAnalysis(Analysis):
    """The analysis of packed features, which also reads them where they were not packed."""

    def of_scales(self, features: DetectorFeatures) -> Tensor:
        """Return what ``forward`` returns of ``pack(features)``."""
        # The same sums as a strided convolution at one scale and a plain one at the other: engines
        # spend 1.3 ms on the transposition that packing is.
        hidden = self.squeeze.activation(_on_scales(self.squeeze.conv, features))
        y: Tensor = _on_scales(self.linear, features) + self.project(self.context(hidden))
        return y


def _on_scales(conv: nn.Conv2d, features: DetectorFeatures) -> Tensor:
    # A 1x1 weight over packed 2x2 blocks is a 2x2 kernel of stride 2 over the map itself.
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
        """Return what the analysis reads, both scales packed: (N, 696, H/16, W/16)."""
        # Stage 2 is the detector's own; stage 3 has learned what the latents can carry.
        return pack(self.front(image))


class Small(LatentModel):
    """All parts of the model, as training and the PyTorch engine hold them."""

    encoder: SmallEncoder

    def __init__(self, detector: str = PLAIN) -> None:
        super().__init__(SmallEncoder())
        self.descriptor = DescriptorEncoder()
        self.detector, width = detector, WIDTHS[detector]
        self.taps = nn.ModuleDict(
            {module_key(detector): _detector_tap(detector), CLASSIFIER: DescriptorTap()}
        )
        self.tails = nn.ModuleDict(
            {module_key(detector): NanoDetTail(width), CLASSIFIER: nn.Linear(EMBEDDING, CLASSES)}
        )
        self.masks: MaskHead | None = None
        self.wide_front: NanoDetFront | None = None

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Small:
        """Build the model of a state dict: its detector, and what else it has or has not."""
        model = cls(detector_of(state))
        if any(name.startswith("masks.") for name in state):
            model.add_masks()
        if any(name.startswith("wide_front.") for name in state):
            model.add_wide_front()
        model.load_state_dict(state)
        return model

    def add_masks(self) -> None:
        """Add a mask branch, with new weights; it is trained when all else is finished."""
        self.masks = MaskHead(self.width.fine, self.width.pyramid)

    def add_wide_front(self) -> None:
        """Add the front of a wider detector: no answer needs it, `bench speed` times us against it.

        Its weights are new.
        """
        self.wide_front = NanoDetFront(self.width)

    @property
    def uncompressed_front(self) -> NanoDetFront | None:
        """The front of the receiver's detector; None where only the sender's narrower one is."""
        return self.encoder.front if self.detector == PLAIN else self.wide_front

    @property
    def width(self) -> DetectorWidth:
        """Channels of the receiver's detector."""
        return WIDTHS[self.detector]

    @property
    def detector_tail(self) -> NanoDetTail:
        """The tail and head that detect."""
        return cast(NanoDetTail, self.tails[module_key(self.detector)])

    @property
    def classifier_tail(self) -> nn.Linear:
        """The classifier's last layer."""
        return cast(nn.Linear, self.tails[CLASSIFIER])

    @property
    def detector_tap(self) -> DetectorTap:
        """The tap of the detector."""
        return cast(DetectorTap, self.taps[module_key(self.detector)])

    @property
    def classifier_tap(self) -> DescriptorTap:
        """The tap of the classifier."""
        return cast(DescriptorTap, self.taps[CLASSIFIER])

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the map's latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        analysis = cast(TwoScaleAnalysis, self.encoder.analysis)
        y = analysis.of_scales(self.encoder.front(image))
        return self.encode_scaled(self.encoder.scale(y, quality), quality)


def module_key(detector: str) -> str:
    """Return what a detector's modules are called: no name of a module may hold a dot."""
    return detector.replace(".", "_")


def detector_of(state: Mapping[str, object]) -> str:
    """Return which detector a state dict's names belong to, ``PLAIN`` where to none."""
    found = [d for d in WIDTHS if any(k.startswith(f"tails.{module_key(d)}.") for k in state)]
    return found[0] if found else PLAIN


def _detector_tap(detector: str) -> DetectorTap:
    width = WIDTHS[detector]
    kind = DetectorTap if detector == PLAIN else WideDetectorTap
    return kind(LATENT_CHANNELS, width)


def pack(features: DetectorFeatures) -> Tensor:
    """Lay both scales over each other: (N, P, H/16, W/16), 2x2 blocks of the finer one first."""
    return torch.cat([F.pixel_unshuffle(features.fine, 2), features.coarse], dim=1)


def unpack(packed: Tensor, width: DetectorWidth = WIDTHS[PLAIN]) -> DetectorFeatures:
    """Undo ``pack``."""
    fine, coarse = torch.split(packed, [4 * width.fine, width.coarse], dim=1)
    return DetectorFeatures(F.pixel_shuffle(fine, 2), coarse)
