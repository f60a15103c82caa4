"""Trunks of the inversion encoder: pixels to feature maps at several strides, and their means.

::

    face R² ─ resized to trunk_side² ─ MobileNetV2 / ResNet-50 v2 / tiny ─▶ maps at 1/4 ... 1/32
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.initial_weights import load_mobilenet
from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail
from cdvision.networks.resnet50v2 import (
    STAGE_CHANNELS,
    WEIGHTS_FILE,
    ResNet50V2Front,
    ResNet50V2Tail,
    load_resnet50v2,
)


class FaceTrunk(nn.Module):
    """A trunk, to whose ``side`` in pixels faces are resized."""

    channels: tuple[int, ...]  # of each stage
    strides: tuple[int, ...]  # of each stage in pixels of the trunk's input, ascending

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (N, 3, R, R) RGB 0..255 to the stages, each (N, channels, side/stride, ...)."""
        # Small faces are enlarged smoothly; large ones are averaged, so that no pixel is left out.
        if image.shape[2] < self.side:
            size = (self.side, self.side)
            image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        return self.stages(resize_area(image, self.side))

    def stages(self, image: Tensor) -> list[Tensor]:
        """Run the network on (N, 3, side, side)."""
        raise NotImplementedError

    def load(self, folder: Path) -> None:
        """Start from the ImageNet weights in ``folder``, where there are any."""
        raise NotImplementedError


class MobileNetTrunk(FaceTrunk):
    """MobileNetV2 up to its last convolution; blocks keep their numbers in the whole network."""

    channels, strides = (24, 32, 96, 320, 1280), (4, 8, 16, 32, 32)
    TAPS = (3, 6, 13, 17, 18)  # blocks that end these stages

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.front, self.tail = MobileNetFront(), MobileNetTail().features

    def load(self, folder: Path) -> None:
        """Start from the ImageNet weights in ``folder``."""
        front, tail = load_mobilenet(folder)
        self.front.load_state_dict(front.state_dict())
        self.tail.load_state_dict(tail.features.state_dict())

    def stages(self, image: Tensor, taps: Sequence[int] = TAPS) -> list[Tensor]:
        """Return what the named blocks give, in order; nothing behind the last of them runs."""
        x, found = self.front.normalise(image), []
        for index, block in enumerate([*self.front.features, *self.tail.values()]):
            x = block(x)
            if index in taps:
                found.append(x)
            if index == taps[-1]:
                break
        return found


class ResNetTrunk(FaceTrunk):
    """ResNet-50 v2 up to stage 3."""

    channels, strides = STAGE_CHANNELS, (4, 8, 16)

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.front, self.tail = ResNet50V2Front(), ResNet50V2Tail()

    def load(self, folder: Path) -> None:
        """Start from the ImageNet weights in ``folder``."""
        front, tail = load_resnet50v2(folder / WEIGHTS_FILE)
        self.front.load_state_dict(front.state_dict())
        self.tail.load_state_dict(tail.state_dict())

    def stages(self, image: Tensor) -> list[Tensor]:
        """Run the network on (N, 3, side, side)."""
        first = self.front(image)
        return [first, *self.tail.stages(first)]


class TinyTrunk(FaceTrunk):
    """Three strided convolutions with the contract of the others: for tests."""

    channels, strides = (8, 16, 16), (4, 8, 16)

    def __init__(self, side: int) -> None:
        super().__init__(side)
        first, second, third = self.channels
        self.first = nn.Conv2d(3, first, 4, 4)
        self.second = nn.Conv2d(first, second, 3, 2, 1)
        self.third = nn.Conv2d(second, third, 3, 2, 1)

    def stages(self, image: Tensor) -> list[Tensor]:
        """Run the network on (N, 3, side, side)."""
        # 0..255 to -2..2: about the spread that ImageNet normalisation gives.
        first = F.relu(self.first(image / 64 - 2))
        second = F.relu(self.second(first))
        return [first, second, F.relu(self.third(second))]

    def load(self, folder: Path) -> None:
        """Keep the random weights: there are no others."""


TRUNK_CLASSES = {"mobilenet_v2": MobileNetTrunk, "resnet50v2": ResNetTrunk, "tiny": TinyTrunk}


def resize_area(x: Tensor, side: int) -> Tensor:
    """Average (N, C, H, W) over a grid of equal cells: (N, C, side, side).

    Two matrix products, so that cells may end inside a pixel and any engine can run it.
    """
    if x.shape[2] == x.shape[3] == side:
        return x
    rows, columns = (_area_matrix(length, side).to(x) for length in x.shape[2:])
    return rows @ x @ columns.t()


def _area_matrix(length: int, cells: int) -> Tensor:
    """Return (cells, length): how much of each pixel a cell covers; rows sum to one."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * length / cells
    pixels = torch.arange(length, dtype=torch.float64)
    # The overlap of a cell and a pixel: from the later start to the earlier end, if that is ahead.
    low = torch.maximum(edges[:-1, None], pixels)
    high = torch.minimum(edges[1:, None], pixels + 1)
    return ((high - low).clamp_min(0) * cells / length).float()
