"""Dense detection head of NanoDet-Plus: class scores and box-side distributions for every cell.

Its post-processing stands beside it: ``distribution_boxes.py`` and ``suppression.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from cdvision.networks.layers import ConvAct

BINS = 8


class DistributionHead(nn.Module):
    """One light branch a pyramid level, all of ``channels``; classes and box sides share it.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, in NanoDet-Plus' depth-wise form.
    """

    def __init__(self, channels: int, *, classes: int, levels: int) -> None:
        super().__init__()
        self.classes = classes
        self.branches = nn.ModuleList(_branch(channels, classes + 4 * BINS) for _ in range(levels))

    def forward(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return score logits (N, M, classes) and side logits (N, M, 32) for all M cells."""
        return self.outputs(self.embeddings(pyramid))

    def embeddings(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return what the last layer reads, a map a level: all that the head knows of a cell."""
        pairs = zip(self.branches, pyramid, strict=True)
        return [cast(nn.Sequential, branch)[:-1](level) for branch, level in pairs]

    def outputs(self, embeddings: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` does, of embeddings."""
        pairs = zip(self.branches, embeddings, strict=True)
        maps = [cast(nn.Sequential, branch)[-1](embedding) for branch, embedding in pairs]
        cells = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
        return cells[..., : self.classes], cells[..., self.classes :]


def _branch(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        ConvAct(channels, channels, 5, groups=channels),
        ConvAct(channels, channels),
        ConvAct(channels, channels, 5, groups=channels),
        ConvAct(channels, channels),
        nn.Conv2d(channels, out, 1),
    )
