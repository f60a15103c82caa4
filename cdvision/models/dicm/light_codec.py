"""`dicm-light`: a sender for cameras, from pixels to the latents that bring back res2.

::

    photo at its own size ─ patches ─ y (C)@1/16 ─▶ STREAM ─▶ y ─ patches ─▶ photo, decoded
    decoded photo ─ enlarged as the zoo's models see photos ─ stem, res2 ─ correction ─▶ 256@1/4

A photo is enlarged behind the decoder, where it costs no bytes: what a network of the zoo makes of
480 pixels enlarged to 800 is told by the 480.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.map_codec import MapCodec, Size, enlarged
from cdvision.models.dicm.patch_transforms import (
    FeatureCorrection,
    PatchAnalysis,
    PatchSynthesis,
    PixelScale,
)


class LightCodec(MapCodec):
    """Patches of pixels to a map and back, then the backbone's own front and a correction."""

    def __init__(self, front: nn.Module, tail: nn.Module, widths: DicmWidths = PAPER) -> None:
        super().__init__(front, tail, widths)
        self.scale = PixelScale()
        self.analysis, self.synthesis = (
            PatchAnalysis(widths.filtered, width=widths.patches),
            PatchSynthesis(widths.filtered, width=widths.pixels),
        )
        self.correction = FeatureCorrection(widths.features, width=widths.correction)

    def analyse(self, image: Tensor) -> Tensor:
        """Map patches of pixels to ``y``."""
        # Half precision would round pixels to whole grey levels.
        with torch.autocast(image.device.type, enabled=False):
            y: Tensor = self.analysis(self.scale(image.float()))
        return y

    def seen(self, image: Tensor, size: Size) -> Tensor:
        """Return photos as they are: the decoder enlarges them."""
        return image

    def synthesise(self, y: Tensor, quality: Tensor, size: Size | None = None) -> Tensor:
        """Decode pixels, enlarge them to ``size``, and run stem, res2 and correction on them."""
        image = self.picture(y, quality)
        return self.features(image if size is None else enlarged(image, size), quality)

    def picture(self, y: Tensor, quality: Tensor) -> Tensor:
        """Map ``y`` (N, C, h, w) to pixels (N, 3, 16h, 16w), RGB 0..255."""
        with torch.autocast(y.device.type, enabled=False):
            linear = self.synthesis.linear(y)
        return self.scale.pixels(self.synthesis.refine(linear, y, quality))

    def features(self, image: Tensor, quality: Tensor) -> Tensor:
        """Map a decoded photo (N, 3, H, W), RGB 0..255, to corrected features."""
        features: Tensor = self.correction(self.front(image), quality)
        return features
