"""DICM's redundancy elimination (RE): layer1 features of ResNet-50 to a latent at 1/32 and back.

::

    f1 256@1/4 ─ 1x1 ─ 1 block ─ conv3/2, LN ─ 1 block ─ conv3/2, LN ─ 2 blocks ─ conv3/2, LN ─▶ y1
    y1 192@1/32 ─ deconv5/2, LN ─ 1 block ─ deconv5/2, LN ─ 1 block
                                             ─ deconv5/2, LN ─ 2 blocks ─ 1x1 ─▶ f2 256@1/4

All blocks are Conv2Former blocks of 128 channels.
Source: Tang, Yi, Wang, DICM, IEEE Trans. Broadcasting 2025.
"""

from __future__ import annotations

from torch import nn

from cdvision.models.dicm.backbones import PAPER, DicmWidths
from cdvision.models.dicm.conv2former import ChannelNorm, Conv2FormerBlock, LayerChain

DEPTHS = (1, 1, 2)


class RedundancyEncoder(LayerChain):
    """Features (N, 256, 8h, 8w) to the latent y1 (N, 192, h, w), not yet rounded."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        inner, latents = widths.redundancy, widths.filtered
        layers: list[nn.Module] = [nn.Conv2d(widths.features, inner, 1)]
        # The last norm stands right before the rounding: it controls the range of the integers.
        for depth, out in zip(DEPTHS, (inner, inner, latents), strict=True):
            layers += [_blocks(depth, inner), nn.Conv2d(inner, out, 3, 2, 1), ChannelNorm(out)]
        super().__init__(*layers)


class RedundancyDecoder(LayerChain):
    """Latent y1 (N, 192, h, w), rounded, to features f2 (N, 256, 8h, 8w)."""

    def __init__(self, widths: DicmWidths = PAPER) -> None:
        inner, latents = widths.redundancy, widths.filtered
        layers: list[nn.Module] = []
        for depth, channels in zip(DEPTHS, (latents, inner, inner), strict=True):
            upsample = nn.ConvTranspose2d(channels, inner, 5, 2, padding=2, output_padding=1)
            layers += [upsample, ChannelNorm(inner), _blocks(depth, inner)]
        super().__init__(*layers, nn.Conv2d(inner, widths.features, 1))


def _blocks(depth: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*(Conv2FormerBlock(channels) for _ in range(depth)))
