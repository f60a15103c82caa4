"""NanoDet-Plus, split after stage 3 into a front and a tail, at the published widths.

::

    RGB ─ normalise ─ stem ─ stage2 116@1/8 ─ stage3 232@1/16 ─┤front│tail├─ stage4 464@1/32
                                │                   │                           │
                              (fine)            (coarse)                        │
                                └────── GhostPAN: 96 @ 1/8, 1/16, 1/32, 1/64 ───┘
                                                    │
                                            DistributionHead ─▶ scores, side distributions

The neck reads stages 2, 3 and 4, so the split is at two scales at once. The channels drawn are
NanoDet-Plus-m's; NanoDet-Plus-m-1.5x has 176, 352 and 704, and 128 in neck and head.

Architecture after RangiLyu/nanodet (Apache-2.0), re-implemented; BatchNorm is folded.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.distribution_head import DistributionHead
from cdvision.networks.layers import ConvAct, Normalise, channel_shuffle, depthwise

# RGB order; upstream normalises BGR with the same numbers reversed.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_SCALE = (0.017125, 0.017507, 0.017429)
STRIDES = (8, 16, 32, 64)


class DetectorWidth(NamedTuple):
    """Channels of a NanoDet-Plus, from stage 2 to the neck."""

    fine: int  # after stage 2
    coarse: int  # after stage 3
    deep: int  # after stage 4
    pyramid: int  # of the neck's maps, and in the head

    @property
    def packed(self) -> int:
        """Channels of both scales in one cell of 1/16: 2x2 cells of the finer one."""
        return 4 * self.fine + self.coarse


PLAIN, WIDE = "nanodet_plus_m", "nanodet_plus_m_1.5x"
WIDTHS = {PLAIN: DetectorWidth(116, 232, 464, 96), WIDE: DetectorWidth(176, 352, 704, 128)}
FINE_CHANNELS, COARSE_CHANNELS, _, PYRAMID_CHANNELS = WIDTHS[PLAIN]


class ShuffleDownUnit(nn.Module):
    """Stride-2 unit, both branches convolved: (N, C, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        half = out // 2
        self.left = nn.Sequential(depthwise(channels, 3, stride=2), ConvAct(channels, half))
        self.right = nn.Sequential(
            ConvAct(channels, half), depthwise(half, 3, stride=2), ConvAct(half, half)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution."""
        return channel_shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


class ShuffleUnit(nn.Module):
    """Stride-1 unit: half of the channels pass, the other half is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.right = nn.Sequential(ConvAct(half, half), depthwise(half, 3), ConvAct(half, half))

    def forward(self, x: Tensor) -> Tensor:
        """Refine (N, C, H, W)."""
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat([left, self.right(right)], dim=1))


class ShuffleStage(nn.Sequential):
    """One stride-2 unit and ``repeats`` stride-1 units of ShuffleNetV2 1.0x.

    Source: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    ECCV 2018; with LeakyReLU, and BatchNorm folded into the convolutions.
    """

    def __init__(self, channels: int, out: int, repeats: int) -> None:
        super().__init__(
            ShuffleDownUnit(channels, out), *(ShuffleUnit(out) for _ in range(repeats))
        )


class GhostModule(nn.Module):
    """Half of the output from a 1x1 convolution, half from a cheap depth-wise one on that half."""

    def __init__(self, channels: int, out: int, *, activate: bool) -> None:
        super().__init__()
        half = out // 2
        self.primary: nn.Module = (
            ConvAct(channels, half) if activate else nn.Conv2d(channels, half, 1)
        )
        self.cheap: nn.Module = (
            ConvAct(half, half, 3, groups=half) if activate else depthwise(half, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out, H, W)."""
        # The second half costs nine products a pixel and channel, not one for each channel.
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


class GhostBlock(nn.Module):
    """Two ghost modules with a depth-wise-separable shortcut: 2C -> C channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.ghosts = nn.Sequential(
            GhostModule(channels, out, activate=True), GhostModule(out, out, activate=False)
        )
        self.shortcut = nn.Sequential(depthwise(channels, 5), nn.Conv2d(channels, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Fuse a concatenated pair of maps."""
        fused: Tensor = self.ghosts(x) + self.shortcut(x)
        return fused


def _down(channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvAct(channels, channels, 5, stride=2, groups=channels), ConvAct(channels, channels)
    )


class GhostPAN(nn.Module):
    """Path-aggregation neck: maps of three widths -> four of ``width`` at 1/8 ... 1/64."""

    def __init__(self, channels: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(ConvAct(c, width) for c in channels)
        self.up16, self.up8 = GhostBlock(2 * width, width), GhostBlock(2 * width, width)
        self.down16, self.down32 = _down(width), _down(width)
        self.fuse16, self.fuse32 = GhostBlock(2 * width, width), GhostBlock(2 * width, width)
        self.extra_in, self.extra_out = _down(width), _down(width)

    def forward(self, c8: Tensor, c16: Tensor, c32: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at 1/8, 1/16, 1/32 and 1/64."""
        # Down the pyramid for context, up again for place; 1/64 comes from both ends of 1/32.
        r8, r16, r32 = (reduce(c) for reduce, c in zip(self.reduce, (c8, c16, c32), strict=True))
        t16 = self.up16(torch.cat([_double(r32), r16], dim=1))
        p8 = self.up8(torch.cat([_double(t16), r8], dim=1))
        p16 = self.fuse16(torch.cat([self.down16(p8), t16], dim=1))
        p32 = self.fuse32(torch.cat([self.down32(p16), r32], dim=1))
        return p8, p16, p32, self.extra_in(r32) + self.extra_out(p32)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class DetectorFeatures(NamedTuple):
    """What the front gives and the tail takes, at two scales."""

    fine: Tensor  # (N, 116 or 176, H/8, W/8), after stage 2
    coarse: Tensor  # (N, 232 or 352, H/16, W/16), after stage 3


def coarse_stage(width: DetectorWidth) -> ShuffleStage:
    """Make stage 3: the fine features to the coarse ones."""
    return ShuffleStage(width.fine, width.coarse, 7)


class NanoDetFront(nn.Module):
    """Pixels to the features of stages 2 and 3, from (N, 3, H, W) RGB 0..255."""

    def __init__(self, width: DetectorWidth = WIDTHS[PLAIN]) -> None:
        super().__init__()
        self.normalise = Normalise(PIXEL_MEAN, PIXEL_SCALE)
        self.stem = nn.Sequential(ConvAct(3, 24, 3, stride=2), nn.MaxPool2d(3, 2, 1))
        self.stage2 = ShuffleStage(24, width.fine, 3)
        self.stage3 = coarse_stage(width)

    def forward(self, image: Tensor) -> DetectorFeatures:
        """Run the part before the split."""
        fine = self.stage2(self.stem(self.normalise(image)))
        return DetectorFeatures(fine, self.stage3(fine))


class DenseDetections(NamedTuple):
    """Dense outputs, the cells of all strides concatenated (M = sum of the maps' cells)."""

    scores: Tensor  # (N, M, 80), logits before the sigmoid in training, after it in graphs
    distances: Tensor  # (N, M, 32), logits: left, top, right, bottom x 8 bins


class NanoDetTail(nn.Module):
    """Features to dense detections; H and W of the image must be multiples of 32."""

    def __init__(self, width: DetectorWidth = WIDTHS[PLAIN], *, classes: int = 80) -> None:
        super().__init__()
        self.stage4 = ShuffleStage(width.coarse, width.deep, 3)
        self.neck = GhostPAN((width.fine, width.coarse, width.deep), width.pyramid)
        self.head = DistributionHead(width.pyramid, classes=classes, levels=len(STRIDES))

    def pyramid(self, features: DetectorFeatures) -> tuple[Tensor, ...]:
        """Return the neck's four maps, which distillation compares."""
        fine, coarse = features
        maps: tuple[Tensor, ...] = self.neck(fine, coarse, self.stage4(coarse))
        return maps

    def forward(self, features: DetectorFeatures) -> DenseDetections:
        """Run the part after the split."""
        return DenseDetections(*self.head(self.pyramid(features)))
