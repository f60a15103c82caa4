"""Errors of features and of the stages behind them, an image at a time, in units of variance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

FLOOR = 0.1  # of the mean variance: channels that hardly ever fire must not outweigh the others


class StageErrors(nn.Module):
    """Mean squared error over variance, channel by channel; 0 is exact, 1 is the mean of each.

    Variances are measured once, on many photos: those of a batch would rise and fall with it.
    """

    variances: list[Tensor]

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        for place, count in enumerate(channels):
            self.register_buffer(f"variance{place}", torch.ones(count))
        self.stages = len(channels)

    def variance(self, place: int) -> Tensor:
        """Return what errors of a stage's channels (C,) are divided by."""
        return self.get_buffer(f"variance{place}")

    @torch.no_grad()
    def measure(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Measure the variances on batches of all stages, each (N, C, h, w)."""
        sums = [
            torch.zeros(3, len(self.variance(k)), dtype=torch.float64) for k in range(self.stages)
        ]
        for stages in batches:
            for found, stage in zip(sums, stages, strict=True):
                cells = stage.movedim(1, -1).flatten(0, 2).double().cpu()
                found += torch.stack([torch.full_like(cells[0], len(cells)), cells.sum(0),
                                      cells.square().sum(0)])  # fmt: skip
        for place, (count, first, second) in enumerate(sums):
            variance = second / count - (first / count).square()
            self.variance(place).copy_(variance + FLOOR * variance.mean())

    def forward(self, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Return the errors (N, stages) of stages (N, C, h, w)."""
        columns = [
            # Half precision cannot hold sums of squares.
            ((mine.float() - theirs.float()).square().mean((2, 3)) / self.variance(place)).mean(1)
            for place, (mine, theirs) in enumerate(zip(found, wanted, strict=True))
        ]
        return torch.stack(columns, dim=1)
