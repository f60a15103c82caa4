"""Means of latents from neighbours that are known already, in three phases.

::

    A C A C      A  from the hyper-latent alone                (a quarter of the cells)
    D B D B      B  + its four diagonal neighbours, all A      (a quarter)
    A C A C      C, D  + their four direct neighbours, A and B (half)

Only the mean is predicted. The hyper-latent alone chooses a symbol's table, in integers, so the
entropy coder needs one pass, and these phases may float in an engine afterwards.

Source of the idea: He et al., "Checkerboard Context Model for Efficient Learned Image Compression",
CVPR 2021.
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

# Where a cell's neighbours of another phase are: the pad (left, right, top, bottom) that gives
# every cell a whole window, and the window's height and width.
Window = tuple[tuple[int, int, int, int], int, int]
SQUARE: Window = (0, 1, 0, 1), 2, 2  # each cell, its right, lower and lower right neighbour
RIGHT: Window = (0, 1, 0, 0), 1, 2  # each cell and its right neighbour
LOWER: Window = (0, 0, 0, 1), 2, 1  # each cell and its lower neighbour
UPPER: Window = (0, 0, 1, 0), 2, 1  # each cell's upper neighbour and the cell
LEFT: Window = (1, 0, 0, 0), 1, 2  # each cell's left neighbour and the cell


class NeighbourMean(nn.Module):
    """Mean of a latent from four neighbours: a linear part, and a light correction."""

    def __init__(self, channels: int, qualities: int, *, hidden: int = 96) -> None:
        super().__init__()
        # A strength a quality: the coarser the step, the more of a neighbour is rounding error.
        self.strength = nn.Parameter(torch.full((qualities, channels), 0.3))
        self.weight = nn.Parameter(torch.full((channels, NEIGHBOURS), 1 / NEIGHBOURS))
        self.squeeze = ConvAct(channels * NEIGHBOURS, hidden)
        self.correct = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, sources: Sequence[Source], quality: Tensor) -> Tensor:
        """Map sources that hold four neighbours in all, and (N,) qualities, to means (N, C, h, w).

        The sources' windows, row by row, are the neighbours in the order of the weights.
        """
        squeeze, bias = self.squeeze.conv.weight, cast(Tensor, self.squeeze.conv.bias)
        linear, squeezed, first = [], [], 0
        # Convolutions of few taps over padded maps: sums over shifted copies cost an engine more
        # than the arithmetic.
        for padded, height, width in sources:
            last = first + height * width
            window = self.weight[:, first:last].reshape(-1, 1, height, width)
            linear.append(F.conv2d(padded, window, groups=len(window)))
            # The weights are stored neighbour by neighbour; a kernel has the channels outermost.
            kernel = squeeze.reshape(len(squeeze), NEIGHBOURS, -1)[:, first:last]
            kernel = kernel.transpose(1, 2).reshape(len(squeeze), -1, height, width)
            squeezed.append(F.conv2d(padded, kernel))
            first = last
        hidden = sum(squeezed) + bias[:, None, None]
        correction: Tensor = self.correct(self.squeeze.activation(hidden))
        return self.strength[quality][:, :, None, None] * sum(linear) + correction


class SpatialPrediction(nn.Module):
    """Resolves the latents of a map phase by phase."""

    def __init__(self, channels: int, qualities: int) -> None:
        super().__init__()
        self.diagonal = NeighbourMean(channels, qualities)
        self.direct = NeighbourMean(channels, qualities)

    def forward(
        self, base: tuple[Tensor, ...], quality: Tensor, resolve: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Return resolved latents (N, C, 2h, 2w).

        Args:
            base: the phases (N, C, h, w) of the means from the hyper-latent, as ``split`` gives.
            quality: (N,) int64.
            resolve: mean of a phase, and its number in ``split`` -> its latents.
        """
        a, c, d, b = base
        a = resolve(a, 0)
        b = resolve(b + self.diagonal([_padded(a, SQUARE)], quality), 3)
        c = resolve(c + self.direct([_padded(a, RIGHT), _padded(b, UPPER)], quality), 1)
        d = resolve(d + self.direct([_padded(a, LOWER), _padded(b, LEFT)], quality), 2)
        return join((a, c, d, b))


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Split (N, C, 2h, 2w) into its four phases (N, C, h, w): A, C, D, B, row by row."""
    upper, lower = x[:, :, ::2], x[:, :, 1::2]
    return upper[..., ::2], upper[..., 1::2], lower[..., ::2], lower[..., 1::2]


def join(phases: tuple[Tensor, ...]) -> Tensor:
    """Undo ``split``."""
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


def _padded(x: Tensor, window: Window) -> Source:
    margins, height, width = window
    # A cell at the edge lacks a neighbour: the pad repeats the one that it has.
    return F.pad(x, margins, mode="replicate"), height, width
