"""The residual discriminator of StyleGAN2; only training needs it.

::

    image R² ─ 1x1 ─┬─ 3x3 ─ blur, 3x3/2 ─┬─ ... ─ 4² ─ spread of the batch ─ 3x3 ─ linear ─ logit
                    └─ blur, 1x1/2 ───────┘

Sources: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020; the
spread of the batch: Karras et al., "Progressive Growing of GANs", ICLR 2018.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cdvision.models.faces.equal_layers import EqualConv, EqualLinear, activate
from cdvision.models.faces.widths import CONSTANT_SIDE, FACE, FaceWidths

GROUP = 4  # pictures whose spread is compared


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the side."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = EqualConv(channels, channels, 3)
        self.second = EqualConv(channels, out, 3, down=True)
        self.shortcut = EqualConv(channels, out, 1, down=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out, H/2, W/2)."""
        # Two paths of unit variance: over the root of two, their sum has it again.
        result: Tensor = (self.second(self.first(x)) + self.shortcut(x)) / math.sqrt(2)
        return result


class StyleDiscriminator(nn.Module):
    """Tell training faces from drawn ones: (N, 3, R, R) in -1..1 to logits (N,), high for real."""

    def __init__(self, widths: FaceWidths = FACE) -> None:
        super().__init__()
        sides = widths.sides[::-1]
        self.from_rgb = EqualConv(3, widths.channels(sides[0]), 1)
        self.blocks = nn.Sequential(
            *(
                DiscriminatorBlock(widths.channels(side), widths.channels(side // 2))
                for side in sides[:-1]
            )
        )
        last = widths.channels(CONSTANT_SIDE)
        self.conv = EqualConv(last + 1, last, 3)
        self.hidden = EqualLinear(last * CONSTANT_SIDE**2, last)
        self.logit = EqualLinear(last, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return one logit an image."""
        x = self.conv(with_spread(self.blocks(self.from_rgb(image))))
        logits: Tensor = self.logit(activate(self.hidden(x.flatten(1))))
        return logits[:, 0]


def with_spread(x: Tensor) -> Tensor:
    """Append a channel that holds the mean standard deviation of each group of pictures.

    Pictures i, i + N/g, i + 2N/g ... form a group, g the greatest divisor of N up to ``GROUP``.
    """
    n, c, h, w = x.shape
    size = next(g for g in range(min(GROUP, n), 0, -1) if n % g == 0)
    groups = x.float().view(size, n // size, c, h, w)
    # Pictures that are all alike give it away: a generator cannot repeat one good face.
    spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    plane = spread.repeat(size)[:, None, None, None].expand(n, 1, h, w)
    return torch.cat([x, plane.to(x.dtype)], 1)
