"""Means of latents from neighbours that are known already, in three phases.

::

    A C A C      A  from the hyper-latent alone                (a quarter of the cells)
    D B D B      B  + its four diagonal neighbours, all A      (a quarter)
    A C A C      C, D  + their four direct neighbours, A and B (half)

What is predicted is the mean only. A symbol's table is chosen by the hyper-latent, exactly and in
integers, so all symbols are decoded in one pass and the phases are float operations of an engine
afterwards: prediction from neighbours costs no exactness and no second pass of the entropy coder.

Source of the idea: checkerboard context models, He et al., "Checkerboard Context Model for
Efficient Learned Image Compression", CVPR 2021; here it may float because it leaves scales alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.layers import ConvAct, zero_init

PHASES = 4
NEIGHBOURS = 4
Source = tuple[Tensor, int, int]  # a padded map, and height and width of its windows


class NeighbourMean(nn.Module):
    """Mean of a latent from four neighbours: a linear part, and a light correction.

    The linear part has a strength a channel and quality: the coarser the step, the more of a
    neighbour is quantisation error. Both parts are convolutions of few taps over padded maps, and
    not sums over shifted copies, which cost an engine more than the arithmetic.
    """

    def __init__(self, channels: int, qualities: int, *, hidden: int = 96) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((qualities, channels), 0.3))
        self.weight = nn.Parameter(torch.full((channels, NEIGHBOURS), 1 / NEIGHBOURS))
        self.squeeze = ConvAct(channels * NEIGHBOURS, hidden)
        self.correct = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, sources: Sequence[Source], quality: Tensor) -> Tensor:
        """Map sources that hold four neighbours in all, and (N,) qualities, to means (N, C, h, w).

        Args:
            sources: padded maps, each with the height and width of the window in which it holds
                neighbours; row by row, these are the neighbours in the order of the weights.
            quality: (N,) int64.
        """
        squeeze, bias = self.squeeze.conv.weight, cast(Tensor, self.squeeze.conv.bias)
        linear, squeezed, first = [], [], 0
        for padded, height, width in sources:
            last = first + height * width
            window = self.weight[:, first:last].reshape(-1, 1, height, width)
            squeezing = self._squeezing(squeeze, first, last, (height, width))
            linear.append(F.conv2d(padded, window, groups=len(window)))
            squeezed.append(F.conv2d(padded, squeezing))
            first = last
        hidden = sum(squeezed) + bias[:, None, None]
        correction: Tensor = self.correct(self.squeeze.activation(hidden))
        return self.strength[quality][:, :, None, None] * sum(linear) + correction

    @staticmethod
    def _squeezing(weight: Tensor, first: int, last: int, window: tuple[int, int]) -> Tensor:
        """Weights (hidden, C, height, width) of some neighbours; stored neighbours outermost."""
        by_neighbour = weight.reshape(len(weight), NEIGHBOURS, -1)[:, first:last]
        return by_neighbour.transpose(1, 2).reshape(len(weight), -1, *window)


class SpatialPrediction(nn.Module):
    """Resolves the latents of a map phase by phase; see the module's picture."""

    def __init__(self, channels: int, qualities: int) -> None:
        super().__init__()
        self.diagonal = NeighbourMean(channels, qualities)
        self.direct = NeighbourMean(channels, qualities)

    def forward(
        self,
        base: tuple[Tensor, ...],
        quality: Tensor,
        resolve: Callable[[Tensor, int], Tensor],
    ) -> Tensor:
        """Return resolved latents (N, C, 2h, 2w).

        Args:
            base: four phases (N, C, h, w) of the means from the hyper-latent, as ``split`` gives.
            quality: (N,) int64.
            resolve: mean (N, C, h, w) of a phase, and its number in ``split`` -> its latents.
        """
        a, c, d, b = base
        a = resolve(a, 0)
        b = resolve(b + self.diagonal([_square(a)], quality), 3)
        c = resolve(c + self.direct([_rightwards(a), _upwards(b)], quality), 1)
        d = resolve(d + self.direct([_downwards(a), _leftwards(b)], quality), 2)
        return join((a, c, d, b))


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Split (N, C, 2h, 2w) into its four phases (N, C, h, w): A, C, D, B, row by row."""
    upper, lower = x[:, :, ::2], x[:, :, 1::2]
    return upper[..., ::2], upper[..., 1::2], lower[..., ::2], lower[..., 1::2]


def join(phases: tuple[Tensor, ...]) -> Tensor:
    """Undo ``split``."""
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


# A map, padded by its own edge, and the window of each cell's neighbours in it. Cells at the edge
# lack a neighbour, which the pad replaces by the one that they have.


def _square(x: Tensor) -> Source:
    """Each cell, its right, its lower and its lower right neighbour."""
    return _padded(x, (0, 1, 0, 1)), 2, 2


def _rightwards(x: Tensor) -> Source:
    """Each cell and its right neighbour."""
    return _padded(x, (0, 1, 0, 0)), 1, 2


def _downwards(x: Tensor) -> Source:
    """Each cell and its lower neighbour."""
    return _padded(x, (0, 0, 0, 1)), 2, 1


def _upwards(x: Tensor) -> Source:
    """Each cell's upper neighbour and the cell."""
    return _padded(x, (0, 0, 1, 0)), 2, 1


def _leftwards(x: Tensor) -> Source:
    """Each cell's left neighbour and the cell."""
    return _padded(x, (1, 0, 0, 0)), 1, 2


def _padded(x: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    """Repeat the edge; margins are left, right, top, bottom."""
    return F.pad(x, margins, mode="replicate")
