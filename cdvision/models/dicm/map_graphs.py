"""The graphs of the zoo codecs that need no head: features of res2, and the decoded picture.

::

    tap.res2        latents, quality (, rows, columns) ─▶ features 256@1/4
    answer.res2     the same: no head answers from it here
    tap.picture     latents, quality ─▶ pixels, RGB 0..255           `dicm-light` alone
    answer.picture  latents, quality ─▶ pixels, and the same as an image of bytes

``rows`` (N, H', H) and ``columns`` (N, W', W) enlarge the decoded photo of `dicm-light` to what a
network looks at; see ``cdvision.heads.resizing``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.models.dicm.light_codec import LightCodec
from cdvision.models.dicm.map_codec import MapCodec
from cdvision.networks.graphs import Axes
from cdvision.package.graph_names import ANSWER, TAP

RES2, PICTURE = "res2", "picture"  # tails
RES2_GRAPHS = f"{TAP}.{RES2}", f"{ANSWER}.{RES2}"
RESIZING: Axes = {"rows": ("batch", "height", "h1"), "columns": ("batch", "width", "w1")}
Parts = dict[str, tuple[nn.Module, Axes, tuple[str, ...]]]


def headless_parts(codec: MapCodec) -> Parts:
    """Return, by the graph's name: module, inputs beside the latents, outputs."""
    if not isinstance(codec, LightCodec):
        return dict.fromkeys(RES2_GRAPHS, (FeaturesGraph(codec), {}, ("features",)))
    resized = ResizedFeaturesGraph(codec), RESIZING, ("features",)
    return {
        **dict.fromkeys(RES2_GRAPHS, resized),
        f"tap.{PICTURE}": (PictureGraph(codec), {}, ("features",)),
        f"answer.{PICTURE}": (ShownPictureGraph(codec), {}, ("features", "image")),
    }


class FeaturesGraph(nn.Module):
    """Integer latents to features; weights keep the names that they have in a package."""

    def __init__(self, codec: MapCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents and (N,) int64 qualities to features (N, 256, H/4, W/4)."""
        return (self.codec.decode(symbols.float(), hyper.float(), quality),)


class LightGraph(nn.Module):
    """Base of the graphs that decode a picture."""

    def __init__(self, codec: LightCodec) -> None:
        super().__init__()
        self.codec = codec

    def picture(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Map int32 latents and (N,) int64 qualities to pixels (N, 3, H, W), RGB 0..255."""
        dequantiser = self.codec.bottleneck.dequantiser
        return self.codec.picture(dequantiser(symbols.float(), hyper.float(), quality), quality)


class ResizedFeaturesGraph(LightGraph):
    """Integer latents to features of the enlarged photo."""

    def forward(
        self, symbols: Tensor, hyper: Tensor, quality: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Return features (N, 256, H'/4, W'/4)."""
        # Around the mean: what no row or column covers is padding, which networks see as zero.
        units = self.codec.scale(self.picture(symbols, hyper, quality))
        units = torch.matmul(torch.matmul(rows[:, None], units), columns[:, None].transpose(2, 3))
        return (self.codec.features(self.codec.scale.pixels(units), quality),)


class PictureGraph(LightGraph):
    """Integer latents to pixels."""

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return pixels (N, 3, H, W), RGB 0..255."""
        return (self.picture(symbols, hyper, quality),)


class ShownPictureGraph(LightGraph):
    """Integer latents to pixels and to an image."""

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return pixels (N, 3, H, W) and (N, H, W, 3) uint8."""
        pixels = self.picture(symbols, hyper, quality)
        return pixels, torch.round(pixels).to(torch.uint8).permute(0, 2, 3, 1)
