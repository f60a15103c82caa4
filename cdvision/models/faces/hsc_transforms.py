"""Transforms of the `hsc` codec: style rows to the base latent, feature F to the detail latent.

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

from cdvision.models.faces.hsc_widths import BASE_SIDE, HscWidths
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


class RowsTransform(nn.Module):
    """Style rows to the base latent and back; knows the mean and spread of rows."""

    center: Tensor
    spread: Tensor

    def __init__(self, widths: HscWidths) -> None:
        super().__init__()
        self.widths = widths
        self.register_buffer("center", torch.zeros(widths.rows, widths.style))
        self.register_buffer("spread", torch.ones(1))

    def image(self, rows: Tensor) -> Tensor:
        """Lay rows (N, rows, style) out as an "image" (N, channels, side, side) of unit spread."""
        side = self.widths.image_side
        return ((rows - self.center) / self.spread).reshape(len(rows), -1, side, side)

    def analyse(self, rows: Tensor) -> Tensor:
        """Map rows (N, rows, style) to the base latent (N, C_b, 2, 2)."""
        return self.latent(self.image(rows))

    def synthesise(self, y: Tensor) -> Tensor:
        """Map the base latent to rows."""
        values = self.values(y).reshape(len(y), self.widths.rows, self.widths.style)
        return self.center + self.spread * values

    def latent(self, image: Tensor) -> Tensor:
        """Map the image to the latent."""
        raise NotImplementedError

    def values(self, y: Tensor) -> Tensor:
        """Map the latent to the image's values in order, in any shape."""
        raise NotImplementedError


class SemanticNetwork(RowsTransform):
    """The method's semantic network: pairs of a halving and a residual block, then 3x3/2."""

    def __init__(self, widths: HscWidths) -> None:
        super().__init__(widths)
        # The last halving is the 3x3/2 convolution's, hence one pair less than halvings.
        n, pairs = widths.semantic, (widths.image_side // BASE_SIDE).bit_length() - 2
        down: list[nn.Module] = []
        for pair in range(pairs):
            channels = n if pair else widths.image_channels
            down += [ResidualHalving(channels, n), Residual(n)]
        opened = n if pairs else widths.image_channels
        self.analysis = nn.Sequential(*down, nn.Conv2d(opened, widths.base, 3, 2, 1))
        up: list[nn.Module] = [ResidualDoubling(widths.base, n, n)]
        for _ in range(pairs):
            up += [Residual(n), ResidualDoubling(n, n, n)]
        self.synthesis = nn.Sequential(*up, nn.Conv2d(n, widths.image_channels, 3, padding=1))

    def latent(self, image: Tensor) -> Tensor:
        """Map the image to the latent."""
        y: Tensor = self.analysis(image)
        return y

    def values(self, y: Tensor) -> Tensor:
        """Map the latent to the image."""
        image: Tensor = self.synthesis(y)
        return image


class DenseSemanticNetwork(RowsTransform):
    """Linear maps, each with a perceptron beside it that starts at zero.

    Rows have no neighbours, so an "image" of them gives convolutions nothing to share.
    """

    def __init__(self, widths: HscWidths) -> None:
        super().__init__(widths)
        values, latents = widths.values, widths.base * BASE_SIDE**2
        self.analysis = nn.Linear(values, latents)
        self.analysis_more = _perceptron(values, widths.semantic, latents)
        self.synthesis = nn.Linear(latents, values)
        self.synthesis_more = _perceptron(latents, widths.semantic, values)

    def latent(self, image: Tensor) -> Tensor:
        """Map the image to the latent."""
        x = image.flatten(1)
        y: Tensor = self.analysis(x) + self.analysis_more(x)
        return y.view(-1, self.widths.base, BASE_SIDE, BASE_SIDE)

    def values(self, y: Tensor) -> Tensor:
        """Map the latent to the values of all rows."""
        x = y.flatten(1)
        values: Tensor = self.synthesis(x) + self.synthesis_more(x)
        return values


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


def _straight(channels: int, out: int) -> nn.Conv2d:
    """3x3 convolution that starts by handing its channels through."""
    conv = nn.Conv2d(channels, out, 3, padding=1)
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    closing = nn.Linear(hidden, outputs)
    # At first the linear map beside it says everything, as the start has set it.
    nn.init.zeros_(closing.weight)
    nn.init.zeros_(closing.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(0.1), closing)
