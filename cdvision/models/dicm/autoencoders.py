"""DICM's two autoencoders of features: redundancy elimination (RE), and the feature codec.

::

    f1 256@1/4 ─ 1x1 ─ 1 block ─ conv3/2, LN ─ 1 block ─ conv3/2, LN ─ 2 blocks ─ conv3/2, LN ─▶ y1
    y1 192@1/32 ─ deconv5/2, LN ─ 1 block ─ deconv5/2, LN ─ 1 block
                                             ─ deconv5/2, LN ─ 2 blocks ─ 1x1 ─▶ f2 256@1/4

    f2 256@1/4 ─ HorNet(256, 2) ─ conv5/2 ─ HorNet(128, 3) ─ conv3 ─ HorNet(192, 4) ─ conv5/2 ─▶ y2
    y2 192@1/16 ─ deconv5/2 ─ HorNet(192, 2) ─ conv3 ─ HorNet(128, 3)
                                             ─ deconv5/2 ─ HorNet(256, 4) ─▶ f3 256@1/4

With y1 at 1/16 the middle stage of RE is left out. Blocks of RE are Conv2Former blocks of 128
channels. The HorNet block of order 4 has the paper's global-local filter, or, for export, a
depth-wise 7x7: what FFTs compute differs a little between platforms, and ONNX lacks them.
Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from torch import nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.conv2former import ChannelNorm, Conv2FormerBlock, LayerChain
from cdvision.models.dicm.hornet import HorNetBlock, Spatial

DEPTHS = {32: (1, 1, 2), 16: (1, 2)}  # of RE's Conv2Former blocks, by the stride of y1
DROP = (0.0, 0.25, 0.5)  # stochastic depth of the codec's HorNet blocks


class RedundancyEncoder(LayerChain):
    """Features (N, 256, 8h, 8w) to the latent y1 (N, 192, h, w), not yet rounded.

    With y1 at 1/16, features are (N, 256, 4h, 4w).
    """

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        inner, latents = widths.redundancy, widths.filtered
        layers: list[nn.Module] = [nn.Conv2d(widths.features, inner, 1)]
        # The last norm stands right before the rounding: it controls the range of the integers.
        depths = DEPTHS[widths.filtered_stride]
        outputs = [inner] * (len(depths) - 1) + [latents]
        for depth, out in zip(depths, outputs, strict=True):
            layers += [_blocks(depth, inner), nn.Conv2d(inner, out, 3, 2, 1), ChannelNorm(out)]
        super().__init__(*layers)


class RedundancyDecoder(LayerChain):
    """Latent y1 (N, 192, h, w), rounded, to features f2 (N, 256, 8h, 8w) or (N, 256, 4h, 4w)."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        inner, latents = widths.redundancy, widths.filtered
        layers: list[nn.Module] = []
        depths = DEPTHS[widths.filtered_stride]
        inputs = [latents] + [inner] * (len(depths) - 1)
        for depth, channels in zip(depths, inputs, strict=True):
            upsample = nn.ConvTranspose2d(channels, inner, 5, 2, padding=2, output_padding=1)
            layers += [upsample, ChannelNorm(inner), _blocks(depth, inner)]
        super().__init__(*layers, nn.Conv2d(inner, widths.features, 1))


def _blocks(depth: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(Conv2FormerBlock(channels) for _ in range(depth)))


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
