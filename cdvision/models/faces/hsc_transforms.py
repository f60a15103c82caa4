"""The float networks of `hsc`: rows to the base latent, F to the detail latent, means of slices.

::

    rows (12 x 256) ─ as an image (3)@32x32 ─ semantic network ─▶ base (C_b)@2x2 ─▶ rows
    F (128)@16x16 ───────────────────────────── feature network ─▶ detail (C_d)@8x8 ─▶ F

Every residual path that closes with a zeroed convolution starts as its linear short cut.

Source: METHODS of HSC (arXiv 2502.16799, IEEE TIP 2025): residual blocks, halving and sub-pixel
doubling, 192 wide. LeakyReLU instead of divisive normalisation, and the dense variant, are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.widths import BASE_SIDE, HscWidths
from cdvision.networks.layers import ConvAct, zero_init


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions: (N, C, h, w) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        closing = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.body = nn.Sequential(ConvAct(channels, channels, 3), closing)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` plus its refinement."""
        refined: Tensor = x + self.body(x)
        return refined


class ResidualHalving(nn.Module):
    """Residual block that halves the resolution: (N, C, 2h, 2w) -> (N, out, h, w)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(channels, out, 2, 2)
        closing = zero_init(nn.Conv2d(out, out, 3, padding=1))
        self.body = nn.Sequential(ConvAct(channels, out, 3, stride=2), closing)

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved map."""
        halved: Tensor = self.short(x) + self.body(x)
        return halved


class ResidualDoubling(nn.Module):
    """Residual block that doubles the resolution: (N, C, h, w) -> (N, out, 2h, 2w)."""

    def __init__(self, channels: int, out: int, hidden: int) -> None:
        super().__init__()
        # Four times the channels, shuffled into 2 x 2 cells: a sub-pixel convolution.
        self.short = nn.Conv2d(channels, 4 * out, 1)
        self.expand = nn.Conv2d(channels, 4 * hidden, 3, padding=1)
        self.close = zero_init(nn.Conv2d(hidden, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the doubled map."""
        hidden = F.leaky_relu(F.pixel_shuffle(self.expand(x), 2), 0.1)
        doubled: Tensor = F.pixel_shuffle(self.short(x), 2) + self.close(hidden)
        return doubled


class SemanticNetwork(nn.Module):
    """Style rows to the base latent and back; knows the mean and spread of rows.

    The method's are pairs of a halving and a residual block, then 3x3/2. The dense variant is
    linear maps, each with a perceptron beside it that starts at zero: rows have no neighbours, so
    an "image" of them gives convolutions nothing to share.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, widths: HscWidths) -> None:
        super().__init__()
        self.widths = widths
        self.register_buffer("center", torch.zeros(widths.rows, widths.style))
        self.register_buffer("spread", torch.ones(1))
        self.analysis_more: nn.Module | None = None
        self.synthesis_more: nn.Module | None = None
        if not widths.dense:
            self.analysis, self.synthesis = _halvings(widths), _doublings(widths)
            return
        values, latents = widths.values, widths.base * BASE_SIDE**2
        self.analysis = nn.Linear(values, latents)
        self.analysis_more = _perceptron(values, widths.semantic, latents)
        self.synthesis = nn.Linear(latents, values)
        self.synthesis_more = _perceptron(latents, widths.semantic, values)

    def image(self, rows: Tensor) -> Tensor:
        """Lay rows (N, rows, style) out as an "image" (N, channels, side, side) of unit spread."""
        side = self.widths.image_side
        # Values keep their order, so each network finds a row's values where it learned them.
        return ((rows - self.center) / self.spread).reshape(len(rows), -1, side, side)

    def analyse(self, rows: Tensor) -> Tensor:
        """Map rows (N, rows, style) to the base latent (N, C_b, 2, 2)."""
        image = self.image(rows)
        if self.analysis_more is None:
            y: Tensor = self.analysis(image)
            return y
        x = image.flatten(1)
        y = self.analysis(x) + self.analysis_more(x)
        return y.view(-1, self.widths.base, BASE_SIDE, BASE_SIDE)

    def synthesise(self, y: Tensor) -> Tensor:
        """Map the base latent to rows."""
        if self.synthesis_more is None:
            values: Tensor = self.synthesis(y)
        else:
            x = y.flatten(1)
            values = self.synthesis(x) + self.synthesis_more(x)
        return self.center + self.spread * values.reshape(len(y), *self.center.shape)


def _pairs(widths: HscWidths) -> int:
    """Halvings of the image, less the last, which is the 3x3/2 convolution's."""
    return (widths.image_side // BASE_SIDE).bit_length() - 2


def _halvings(widths: HscWidths) -> nn.Module:
    n, pairs = widths.semantic, _pairs(widths)
    down: list[nn.Module] = []
    for pair in range(pairs):
        channels = n if pair else widths.image_channels
        down += [ResidualHalving(channels, n), Residual(n)]
    opened = n if pairs else widths.image_channels
    return nn.Sequential(*down, nn.Conv2d(opened, widths.base, 3, 2, 1))


def _doublings(widths: HscWidths) -> nn.Module:
    n = widths.semantic
    up: list[nn.Module] = [ResidualDoubling(widths.base, n, n)]
    for _ in range(_pairs(widths)):
        up += [Residual(n), ResidualDoubling(n, n, n)]
    return nn.Sequential(*up, nn.Conv2d(n, widths.image_channels, 3, padding=1))


class FeatureNetwork(nn.Module):
    """F to the detail latent and back; knows the mean and spread of F."""

    center: Tensor
    spread: Tensor

    def __init__(self, widths: HscWidths) -> None:
        super().__init__()
        inner, detail = widths.inner, widths.detail
        self.down = ResidualHalving(widths.features, inner)
        self.analysis = nn.Sequential(
            *(Residual(inner) for _ in range(widths.blocks)), _straight(inner, detail)
        )
        self.synthesis = nn.Sequential(
            _straight(detail, inner), *(Residual(inner) for _ in range(widths.blocks))
        )
        self.up = ResidualDoubling(inner, widths.features, max(inner // 2, 4))
        self.register_buffer("center", torch.zeros(widths.features, 1, 1))
        self.register_buffer("spread", torch.ones(widths.features, 1, 1))

    def analyse(self, feature: Tensor) -> Tensor:
        """Map F (N, C, 2h, 2w) to the detail latent (N, C_d, h, w)."""
        y: Tensor = self.analysis(self.down((feature - self.center) / self.spread))
        return y

    def synthesise(self, y: Tensor) -> Tensor:
        """Map the detail latent to F."""
        feature: Tensor = self.center + self.spread * self.up(self.synthesis(y))
        return feature


class SideNetwork(nn.Sequential):
    """Decoded rows as an "image" to side information for means: (N, C, s, s) -> (N, S, h, h)."""

    def __init__(self, widths: HscWidths) -> None:
        # Powers of two: the difference of their bit lengths is how often the side is halved.
        halvings = (widths.image_side // widths.detail_side).bit_length() - 1
        strides = [2 if k < halvings else 1 for k in range(max(halvings, 2))]
        inputs = [widths.image_channels, *(widths.side for _ in strides[1:])]
        layers: list[nn.Module] = [
            ConvAct(channels, widths.side, 3, stride=stride)
            for channels, stride in zip(inputs, strides, strict=True)
        ]
        super().__init__(*layers, nn.Conv2d(widths.side, widths.side, 3, padding=1))


class SliceMean(nn.Sequential):
    """Side information and the slices before, decoded, to a slice's means; zero at first."""

    def __init__(self, widths: HscWidths, position: int) -> None:
        channels, hidden = widths.slice_channels, widths.hidden
        first, second, third = widths.kernels
        super().__init__(
            ConvAct(widths.side + position * channels, hidden, first),
            ConvAct(hidden, hidden, second),
            zero_init(nn.Conv2d(hidden, channels, third, padding=third // 2)),
        )


def _straight(channels: int, out: int) -> nn.Conv2d:
    """3x3 convolution that starts by handing its channels through."""
    conv = nn.Conv2d(channels, out, 3, padding=1)
    # With the short cuts set by the start, the whole path is linear at first.
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    closing = nn.Linear(hidden, outputs)
    # At first the linear map beside it says everything, as the start has set it.
    nn.init.zeros_(closing.weight)
    nn.init.zeros_(closing.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.1), closing)
