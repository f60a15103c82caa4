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

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.layers import ConvAct, zero_init

PHASES = 4
NEIGHBOURS = 4


class NeighbourMean(nn.Module):
    """Mean of a latent from four neighbours: a linear part, and a light correction.

    The linear part has a strength a channel and quality: the coarser the step, the more of a
    neighbour is quantisation error.
    """

    def __init__(self, channels: int, qualities: int, *, hidden: int = 48) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((qualities, channels), 0.3))
        self.weight = nn.Parameter(torch.full((channels, NEIGHBOURS), 1 / NEIGHBOURS))
        self.squeeze = ConvAct(channels * NEIGHBOURS, hidden)
        self.correct = zero_init(nn.Conv2d(hidden, channels, 1))

    def forward(self, neighbours: tuple[Tensor, ...], quality: Tensor) -> Tensor:
        """Map four maps (N, C, h, w) and (N,) qualities to means (N, C, h, w)."""
        strength = self.strength[quality][:, :, None, None]
        linear = sum(
            x * w[None, :, None, None]
            for x, w in zip(neighbours, self.weight.unbind(1), strict=True)
        )
        correction: Tensor = self.correct(self.squeeze(torch.cat(neighbours, dim=1)))
        return strength * linear + correction


class SpatialPrediction(nn.Module):
    """Resolves the latents of a map phase by phase; see the module's picture."""

    def __init__(self, channels: int, qualities: int) -> None:
        super().__init__()
        self.diagonal = NeighbourMean(channels, qualities)
        self.direct = NeighbourMean(channels, qualities)

    def forward(
        self, base: Tensor, quality: Tensor, resolve: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        """Return resolved latents (N, C, 2h, 2w).

        Args:
            base: (N, C, 2h, 2w) means from the hyper-latent.
            quality: (N,) int64.
            resolve: mean (N, C, h, w) of a phase, and its number in ``split`` -> its latents.
        """
        a, c, d, b = split(base)
        a = resolve(a, 0)
        right, down = _next(a, 3), _next(a, 2)
        b = resolve(b + self.diagonal((a, right, down, _next(right, 2)), quality), 3)
        c = resolve(c + self.direct((a, right, _previous(b, 2), b), quality), 1)
        d = resolve(d + self.direct((a, down, _previous(b, 3), b), quality), 2)
        return join((a, c, d, b))


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Split (N, C, 2h, 2w) into its four phases (N, C, h, w): A, C, D, B, row by row."""
    phases: tuple[Tensor, ...] = torch.unflatten(F.pixel_unshuffle(x, 2), 1, (-1, PHASES)).unbind(2)
    return phases


def join(phases: tuple[Tensor, ...]) -> Tensor:
    """Undo ``split``."""
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


def _next(x: Tensor, dim: int) -> Tensor:
    """Each cell's successor along a dimension, 2 or 3; the last cell is its own."""
    if dim == 2:
        return torch.cat([x[:, :, 1:], x[:, :, -1:]], dim=2)
    return torch.cat([x[..., 1:], x[..., -1:]], dim=3)


def _previous(x: Tensor, dim: int) -> Tensor:
    """Each cell's predecessor along a dimension, 2 or 3; the first cell is its own."""
    if dim == 2:
        return torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
    return torch.cat([x[..., :1], x[..., :-1]], dim=3)
