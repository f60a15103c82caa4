"""The backbones that DICM can stand on, and how wide its networks are on each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from cdvision.errors import ModelError


@dataclass(frozen=True)
class DicmWidths:
    """Channels of every part; the defaults are the paper's."""

    features: int = 256  # of the backbone at the split point, 1/4
    redundancy: int = 128  # between RE's convolutions
    filtered: int = 192  # of RE's latent y1
    filtered_stride: int = 32  # of y1, 16 or 32
    filtered_hyper: int = 24  # of the hyper-latent of y1, at 1/128; ours, the paper sends no y1
    patches: int = 48  # of the first layer of the light sender
    pixels: int = 64  # of the last layers of the light decoder
    correction: int = 64  # inside the light decoder's correction of features
    narrow: int = 128  # of the codec's middle
    latents: int = 192  # of the codec's latent y2 at 1/16, a multiple of 8
    hyper: int = 192  # of the hyper-latent z at 1/64
    tokens: int = 384  # of the hyper-encoder's transformer
    heads: int = 6  # of its attention


PAPER = DicmWidths()
# At 1/16, and not at the paper's 1/32: of 192 linear components of res2, those at 1/16 leave 1.5 %
# of res4's variance, those at 1/32 leave 32 %.
ZOO = replace(PAPER, filtered_stride=16)
TINY = DicmWidths(
    features=16, redundancy=16, filtered=16, filtered_hyper=8, patches=8, pixels=8, correction=8,
    narrow=8, latents=16, hyper=8, tokens=16, heads=2,
)  # fmt: skip
TINY_ZOO = replace(TINY, filtered_stride=16)


class BackboneShape(NamedTuple):
    """Channels and strides of the features at the split point and of every stage behind it."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    widths: DicmWidths = PAPER


BACKBONES = {
    "resnet50-msra": BackboneShape((256, 512, 1024), (4, 8, 16), ZOO),
    "resnet50": BackboneShape((256, 512, 1024, 2048), (4, 8, 16, 32)),
    "resnet50v2": BackboneShape((256, 512, 1024), (4, 8, 16)),
    "tiny": BackboneShape((TINY.features, 24, 32), (4, 8, 16), TINY),  # of the tests' packages
    "tiny-zoo": BackboneShape((TINY.features, 24, 32), (4, 8, 16), TINY_ZOO),
}


def make_backbone(name: str, classes: int | None = None) -> tuple[nn.Module, nn.Module]:
    """Return front and tail of a backbone, with random weights.

    ``classes`` are those of torchvision's own classifier, which no package uses; None for none.
    """
    if name == "resnet50-msra":
        from cdvision.networks.resnet50_msra import MsraFront, MsraTail

        return MsraFront(), MsraTail()
    if name == "resnet50v2":
        from cdvision.networks.resnet50v2 import ResNet50V2Front, ResNet50V2Tail

        return ResNet50V2Front(), ResNet50V2Tail()
    if name == "resnet50":
        from cdvision.models.dicm.resnet50 import ResNet50Front, ResNet50Tail

        return ResNet50Front(), ResNet50Tail(classes)
    if name in ("tiny", "tiny-zoo"):
        return TinyFront(), TinyTail()
    raise ModelError(f"dicm: expected backbone {', '.join(BACKBONES)}, found {name!r}")


class TinyFront(nn.Module):
    """Pixels (N, 3, H, W), RGB 0..255, to features (N, 16, H/4, W/4), >= 0."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, TINY.features, 4, 4)

    def forward(self, image: Tensor) -> Tensor:
        """Run the front."""
        features: Tensor = self.conv(image / 64 - 2).relu()
        return features


class TinyTail(nn.Module):
    """Features at 1/4 to stages at 1/8 and 1/16."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = BACKBONES["tiny"].channels
        self.stage2 = nn.Sequential(nn.Conv2d(first, second, 3, 2, 1), nn.ReLU())
        self.stage3 = nn.Sequential(nn.Conv2d(second, third, 3, 2, 1), nn.ReLU())

    def stages(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 16, 4h, 4w) to (N, 24, 2h, 2w) and (N, 32, h, w)."""
        middle = self.stage2(features)
        return middle, self.stage3(middle)
