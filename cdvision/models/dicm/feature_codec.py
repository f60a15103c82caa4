"""DICM's feature codec: features f2 to the latent y2 at 1/16 (analysis) and back (synthesis).

::

    f2 256@1/4 ─ HorNet(256, 2) ─ conv5/2 ─ HorNet(128, 3) ─ conv3 ─ HorNet(192, 4) ─ conv5/2 ─▶ y2
    y2 192@1/16 ─ deconv5/2 ─ HorNet(192, 2) ─ conv3 ─ HorNet(128, 3)
                                             ─ deconv5/2 ─ HorNet(256, 4) ─▶ f3 256@1/4

The block of order 4 has the paper's global-local filter, or, for export, a depth-wise 7x7: what
FFTs compute differs a little between platforms, and ONNX lacks them.
Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from torch import nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.conv2former import LayerChain
from cdvision.models.dicm.hornet import HorNetBlock, Spatial

DROP = (0.0, 0.25, 0.5)  # stochastic depth of the three blocks

# A LeakyReLU follows every change of resolution, y2 included; its slope is not published, and is
# PyTorch's own 0.01 here.


class FeatureAnalysis(LayerChain):
    """g_a: features (N, 256, 4h, 4w) to the latent y2 (N, 192, h, w), not yet rounded."""

    def __init__(self, spatial: Spatial = "depthwise", *, widths: DicmWidths = PAPER) -> None:
        wide, narrow, latent = widths.features, widths.narrow, widths.latents
        super().__init__(
            HorNetBlock(wide, 2, drop=DROP[0]),
            nn.Conv2d(wide, narrow, 5, 2, 2),
            nn.LeakyReLU(),
            HorNetBlock(narrow, 3, drop=DROP[1]),
            nn.Conv2d(narrow, latent, 3, 1, 1),
            HorNetBlock(latent, 4, spatial=spatial, drop=DROP[2]),
            nn.Conv2d(latent, latent, 5, 2, 2),
            nn.LeakyReLU(),
        )


class FeatureSynthesis(LayerChain):
    """g_s: latent y2 (N, 192, h, w), rounded, to features f3 (N, 256, 4h, 4w)."""

    def __init__(self, spatial: Spatial = "depthwise", *, widths: DicmWidths = PAPER) -> None:
        wide, narrow, latent = widths.features, widths.narrow, widths.latents
        super().__init__(
            nn.ConvTranspose2d(latent, latent, 5, 2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            HorNetBlock(latent, 2, drop=DROP[0]),
            nn.Conv2d(latent, narrow, 3, 1, 1),
            HorNetBlock(narrow, 3, drop=DROP[1]),
            nn.ConvTranspose2d(narrow, wide, 5, 2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            HorNetBlock(wide, 4, spatial=spatial, drop=DROP[2]),
        )
