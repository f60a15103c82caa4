"""Means of latents from the odd cells of a checkerboard, in two phases.

::

    A B A B      B  first: row + column is odd; its mean comes from the hyper-latent alone
    B A B A      A  second: + the twelve B within a window of 5x5
    A B A B

In the two passes of ``receiver/coder.py``: there the first chooses tables, in integers; here it
moves a mean, and may float.

Source of the idea: He et al., "Checkerboard Context Model for Efficient Learned Image Compression",
CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdvision.networks.layers import ConvAct, depthwise, zero_init

FIRST, SECOND = 0, 1  # phases
WINDOW = 5  # side of the window that holds the neighbours


class CheckerboardMean(nn.Module):
    """Resolves the latents of a map in two phases.

    The second mean has a linear part, channel by channel, and a light correction that sees all.
    """

    def __init__(self, channels: int, qualities: int, *, hidden: int = 48) -> None:
        super().__init__()
        # A strength a quality: the coarser the step, the more of a neighbour is rounding error.
        self.strength = nn.Parameter(torch.full((qualities, channels), 0.3))
        self.linear = depthwise(channels, WINDOW)
        self.told = ConvAct(channels, hidden)
        self.hyper = nn.Conv2d(channels, hidden, 1)
        self.gather = nn.Conv2d(hidden, hidden, WINDOW, padding=WINDOW // 2)
        self.activation = nn.LeakyReLU(0.1)
        self.correct = zero_init(nn.Conv2d(hidden, channels, 1))
        # At first, the mean of the four direct neighbours: those at a city-block distance of 1.
        distance = (torch.arange(WINDOW) - WINDOW // 2).abs()
        cross = (distance[:, None] + distance) == 1
        self.linear.weight.data.copy_(0.25 * cross)

    def forward(
        self, base: Tensor, quality: Tensor, resolve: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Return resolved latents (N, C, h, w).

        Args:
            base: (N, C, h, w) means from the hyper-latent.
            quality: (N,) int64.
            resolve: means and a phase, 0 or 1 in this order -> latents (N, C, h, w), of which
                phase 0 uses the odd cells and phase 1 the even ones.
        """
        odd = odd_cells(base)
        first = resolve(base, FIRST) * odd
        # Neighbours tell how far they came out from their own means, so the border needs no care:
        # the zeros beyond it tell nothing.
        deviation = first - base * odd
        linear = self.strength[quality][:, :, None, None] * self.linear(deviation)
        hidden = self.activation(self.gather(self.told(deviation) * odd) + self.hyper(base))
        mean = base + (linear + self.correct(hidden))
        return first + resolve(mean, SECOND) * (1 - odd)


def odd_cells(like: Tensor) -> Tensor:
    """Return 1 where row + column is odd, else 0: (1, 1, h, w) of the type of ``like``."""
    rows = torch.arange(like.shape[2], device=like.device)
    columns = torch.arange(like.shape[3], device=like.device)
    return ((rows[:, None] + columns) % 2).to(like.dtype)[None, None]
