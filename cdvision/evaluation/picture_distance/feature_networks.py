"""The ImageNet networks behind LPIPS and DISTS: AlexNet and VGG16, up to their last convolution.

Both give the activations behind five of their ReLUs, fine to coarse.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG16_CHANNELS = tuple(stage[-1] for stage in VGG16)


class AlexNet(nn.Module):
    """AlexNet's five convolutions, one tap behind each.

    Source: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
    """

    CHANNELS = (64, 192, 384, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, 64, 11, stride=4, padding=2),
                nn.Conv2d(64, 192, 5, padding=2),
                nn.Conv2d(192, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
                nn.Conv2d(256, 256, 3, padding=1),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised pictures (N, 3, H, W), sides of 31 or more, to five taps."""
        taps = []
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            taps.append(x)
        return taps


class Vgg16(nn.Module):
    """VGG16's five stages with DISTS's smooth pooling between, one tap behind each.

    Source: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", ICLR 2015.
    """

    blur: Tensor

    def __init__(self) -> None:
        super().__init__()
        inputs = [3, *(channels for stage in VGG16 for channels in stage)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(inputs)
        )
        window = torch.from_numpy(np.hanning(5)[1:-1]).float()  # 0.5, 1, 0.5
        blur = window[:, None] * window
        self.register_buffer("blur", blur / blur.sum(), persistent=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map normalised pictures (N, 3, H, W) to five taps."""
        taps: list[Tensor] = []
        remaining = iter(self.convolutions)
        for stage in VGG16:
            if taps:
                x = self._halve(x)
            for _ in stage:
                x = F.relu(next(remaining)(x))
            taps.append(x)
        return taps

    def _halve(self, x: Tensor) -> Tensor:
        """Pool by the root of blurred squares: like a maximum, without its aliasing."""
        channels = x.shape[1]
        kernel = self.blur.expand(channels, 1, -1, -1)
        # Groups of one channel: the blur mixes places, never channels.
        squares = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=channels)
        # The root has an endless slope at 0; the small addend keeps it finite.
        return (squares + 1e-12).sqrt()
