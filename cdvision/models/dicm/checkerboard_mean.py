"""Means of latents from the odd cells of a checkerboard, in two phases.

::

    A B A B      B  first: row + column is odd; its mean comes from the hyper-latent alone
    B A B A      A  second: + the twelve B within a window of 5x5
    A B A B

The same two passes in which ``receiver/coder.py`` codes. There, what the first tells the second
chooses tables, exactly and in integers; here it moves a mean, and may float.

Source of the idea: He et al., "Checkerboard Context Model for Efficient Learned Image Compression",
CVPR 2021.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cdvision.networks.layers import ConvAct, depthwise, zero_init

FIRST, SECOND = 0, 1  # phases


class CheckerboardMean(nn.Module):
    """Resolves the latents of a map in two phases; see the module's picture.

    What neighbours tell is how far they came out from their own means, so the map's border needs
    no care: a neighbour that is not there tells nothing. A linear part has a strength a channel and
    quality (the coarser the step, the more of a neighbour is quantisation error); a light
    correction sees all channels, and the means.

    Args:
        channels: channels of the latents.
        qualities: number of qualities.
        hidden: channels of the correction.
        window: side of the window that holds the neighbours, odd.
    """

    def __init__(self, channels: int, qualities: int, *, hidden: int = 48, window: int = 5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((qualities, channels), 0.3))
        self.linear = depthwise(channels, window)
        self.told = ConvAct(channels, hidden)
        self.hyper = nn.Conv2d(channels, hidden, 1)
        self.gather = nn.Conv2d(hidden, hidden, window, padding=window // 2)
        self.activation = nn.LeakyReLU(0.1)
        self.correct = zero_init(nn.Conv2d(hidden, channels, 1))
        nn.init.constant_(self.linear.weight, 0.25)
        with torch.no_grad():  # at first, the mean of the four direct neighbours
            self.linear.weight.mul_(_cross(window))

    def forward(
        self, base: Tensor, quality: Tensor, resolve: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Return resolved latents (N, C, h, w).

        Args:
            base: (N, C, h, w) means from the hyper-latent.
            quality: (N,) int64.
            resolve: means (N, C, h, w) and a phase, 0 or 1 -> latents (N, C, h, w), of which
                phase 0 uses the odd cells and phase 1 the even ones: called in this order.
        """
        odd = odd_cells(base)
        first = resolve(base, FIRST) * odd
        mean = base + self._from_neighbours(first - base * odd, base, odd, quality)
        return first + resolve(mean, SECOND) * (1 - odd)

    def _from_neighbours(
        self, deviation: Tensor, base: Tensor, odd: Tensor, quality: Tensor
    ) -> Tensor:
        linear: Tensor = self.strength[quality][:, :, None, None] * self.linear(deviation)
        hidden = self.activation(self.gather(self.told(deviation) * odd) + self.hyper(base))
        correction: Tensor = self.correct(hidden)
        return linear + correction


def odd_cells(like: Tensor) -> Tensor:
    """Return 1 where row + column is odd, else 0: (1, 1, h, w) of the type of ``like``."""
    rows = torch.arange(like.shape[2], device=like.device)
    columns = torch.arange(like.shape[3], device=like.device)
    return ((rows[:, None] + columns) % 2).to(like.dtype)[None, None]


def _cross(window: int) -> Tensor:
    """Return 1 at the four direct neighbours of a window's centre, else 0: (window, window)."""
    distance = (torch.arange(window) - window // 2).abs()
    return ((distance[:, None] + distance) == 1).float()
