"""The sender's graph of delta packets: what the receiver has, changed cell by cell.

::

    image ─ encoder ─ y · gain[q] ─┐
    hyper ─ mean ──────────────────┼─ r = y - what the receiver has ─ skip or round ─▶ + previous
    previous ─ neighbours' means ──┘   phase by phase, see ``networks.context``

The receiver's state is the last key's hyper-latent and the symbols, all integers, so that a sender
knows them to the bit. A changed symbol moves the means of its neighbours: the phases are resolved
in the receiver's order, so r is what is really left.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from cdvision.models.small.network import Small, TwoScaleAnalysis
from cdvision.networks.context import PHASES, join, split

# A cell is skipped while its channels' sum of max(|r| - HALF, 0) stays below SKIP: rounding could
# not have done much better. In a coded cell |r| below DEAD is left as it is.
HALF, SKIP, DEAD = 0.5, 0.6, 0.55


class DeltaGraph(nn.Module):
    """uint8 image, the receiver's integers and quality to the receiver's next symbols."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.encoder, self.dequantiser = model.encoder, model.dequantiser

    def forward(
        self, image: Tensor, previous: Tensor, hyper: Tensor, quality: Tensor
    ) -> tuple[Tensor]:
        """Map (N, H, W, 3) uint8, int32 latents and (N,) int64 to int32 symbols (N, C, h, w)."""
        analysis = cast(TwoScaleAnalysis, self.encoder.analysis)
        y = analysis.of_scales(self.encoder.front(image.permute(0, 3, 1, 2).float()))
        latents, before = split(self.encoder.scale(y, quality)), split(previous.float())
        means, symbols = self.dequantiser.mean.phases(hyper.float(), *y.shape[2:]), {}

        def resolve(mean: Tensor, phase: int) -> Tensor:
            symbols[phase] = before[phase] + change(latents[phase] - mean - before[phase])
            return symbols[phase] + mean

        self.dequantiser.prediction(means, quality, resolve)
        return (join(tuple(symbols[phase] for phase in range(PHASES))).to(torch.int32),)


def change(left: Tensor) -> Tensor:
    """Return the whole steps to add, (N, C, h, w), for what is left to tell.

    >>> change(torch.tensor([0.9, 0.52, 0.6]).reshape(1, 3, 1, 1)).flatten().tolist()
    [0.0, 0.0, 0.0]
    >>> change(torch.tensor([1.2, 0.52, 0.6]).reshape(1, 3, 1, 1)).flatten().tolist()
    [1.0, 0.0, 1.0]
    """
    size = left.abs()
    coded = (size - HALF).clamp(min=0).sum(1, keepdim=True) >= SKIP
    return torch.where(coded & (size >= DEAD), torch.round(left), torch.zeros_like(left))
