"""An exponential moving average of a network's weights: what a trained generator is."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
RAMP = 0.05  # the half-life is at most this share of the images seen so far


class MovingAverage(nn.Module, Generic[Network]):
    """Follows a network.

    Args:
        network: what is followed; copied.
        half_life: images after which a weight's influence is halved.
    """

    images: Tensor

    def __init__(self, network: Network, half_life: float = 10_000.0) -> None:
        super().__init__()
        self.network: Network = copy.deepcopy(network).requires_grad_(False).eval()
        self.half_life = half_life
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def follow(self, network: Network, batch: int) -> None:
        """Move towards ``network``, which has seen another ``batch`` of images."""
        self.images += batch
        half_life = min(self.half_life, RAMP * float(self.images))
        share = 1 - 0.5 ** (batch / half_life)
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, share)
        for kept, given in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(given)
