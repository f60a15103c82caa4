"""DICM's feature codec: features f2 to the latent y2 at 1/16 (analysis) and back (synthesis).

::

    f2 256@1/4 ─ HorNet(256, 2) ─ conv5/2 ─ HorNet(128, 3) ─ conv3 ─ HorNet(192, 4) ─ conv5/2 ─▶ y2
    y2 192@1/16 ─ deconv5/2 ─ HorNet(192, 2) ─ conv3 ─ HorNet(128, 3)
                                             ─ deconv5/2 ─ HorNet(256, 4) ─▶ f3 256@1/4

A LeakyReLU follows every change of resolution, y2 included; its slope is not published, and is
PyTorch's own 0.01 here. The block of order 4 has the paper's global-local filter, or, for export,
a depth-wise 7x7: what FFTs compute differs a little between platforms, and ONNX lacks them.
Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from torch import Tensor, nn

from cdvision.models.dicm.conv2former import truncated_normal_init
from cdvision.models.dicm.hornet import HorNetBlock, Spatial
from cdvision.models.dicm.widths import PAPER, DicmWidths

DROP = (0.0, 0.25, 0.5)  # stochastic depth of the three blocks


class FeatureAnalysis(nn.Module):
    """g_a: features (N, 256, 4h, 4w) to the real-valued latent y2 (N, 192, h, w).

    Args:
        spatial: "filter" for the paper's global-local filter, "depthwise" where it must export.
        drop: stochastic depth of the three blocks in training.
        widths: channels.
    """

    def __init__(
        self,
        spatial: Spatial = "depthwise",
        *,
        drop: tuple[float, float, float] = DROP,
        widths: DicmWidths = PAPER,
    ) -> None:
        super().__init__()
        wide, narrow, latent = widths.features, widths.narrow, widths.latents
        self.layers = nn.Sequential(
            HorNetBlock(wide, 2, drop=drop[0]),
            nn.Conv2d(wide, narrow, 5, 2, 2),
            nn.LeakyReLU(),
            HorNetBlock(narrow, 3, drop=drop[1]),
            nn.Conv2d(narrow, latent, 3, 1, 1),
            HorNetBlock(latent, 4, spatial=spatial, drop=drop[2]),
            nn.Conv2d(latent, latent, 5, 2, 2),
            nn.LeakyReLU(),
        )
        self.apply(truncated_normal_init)

    def forward(self, features: Tensor) -> Tensor:
        """Return y2 before rounding."""
        y: Tensor = self.layers(features)
        return y


class FeatureSynthesis(nn.Module):
    """g_s: latent y2 (N, 192, h, w), rounded, to features f3 (N, 256, 4h, 4w).

    Args:
        spatial: "filter" for the paper's global-local filter, "depthwise" where it must export.
        drop: stochastic depth of the three blocks in training.
        widths: channels.
    """

    def __init__(
        self,
        spatial: Spatial = "depthwise",
        *,
        drop: tuple[float, float, float] = DROP,
        widths: DicmWidths = PAPER,
    ) -> None:
        super().__init__()
        wide, narrow, latent = widths.features, widths.narrow, widths.latents
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent, latent, 5, 2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            HorNetBlock(latent, 2, drop=drop[0]),
            nn.Conv2d(latent, narrow, 3, 1, 1),
            HorNetBlock(narrow, 3, drop=drop[1]),
            nn.ConvTranspose2d(narrow, wide, 5, 2, padding=2, output_padding=1),
            nn.LeakyReLU(),
            HorNetBlock(wide, 4, spatial=spatial, drop=drop[2]),
        )
        self.apply(truncated_normal_init)

    def forward(self, y: Tensor) -> Tensor:
        """Return f3."""
        features: Tensor = self.layers(y)
        return features
