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

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from cdvision.heads.mask_head import MaskHead
from cdvision.networks.hyper import Latents
from cdvision.networks.latent_model import LATENT_CHANNELS, LatentEncoder, LatentModel
from cdvision.networks.mobilenet_v2 import FRONT_CHANNELS as CLASSIFIER_CHANNELS
from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail
from cdvision.networks.nanodet import (
    FRONT_CHANNELS,
    PYRAMID_CHANNELS,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.networks.taps import ResamplingTap, UpsamplingTap


class SmallEncoder(LatentEncoder):
    """Pixels to latents: the sender's network."""

    def __init__(self) -> None:
        super().__init__(FRONT_CHANNELS + CLASSIFIER_CHANNELS)
        self.front = NanoDetFront()
        self.classifier_front = MobileNetFront()

    def features(self, image: Tensor) -> Tensor:
        """Return both networks' features (N, 148, H/8, W/8), the detector's first.

        Both, because neither contains the other: from the detector's features alone, the
        classifier's can be predicted to little more than half of their variance.
        """
        return torch.cat([self.front(image), self.classifier_front(image)], dim=1)


class Small(LatentModel):
    """All parts of the model, as training and the PyTorch engine hold them."""

    encoder: SmallEncoder

    def __init__(self) -> None:
        super().__init__(SmallEncoder())
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

    def encode(self, image: Tensor, quality: Tensor) -> Latents:
        """Return the latents of (N, 3, H, W) RGB 0..255, H and W multiples of 32."""
        return self.encode_features(self.encoder.features(image), quality)
