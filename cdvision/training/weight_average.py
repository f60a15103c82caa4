"""The running mean of a network's weights over its last steps: what most stages give in the end."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
MEMORY = 0.998  # share of the mean that a step leaves


class WeightAverage(nn.Module, Generic[Network]):
    """Follows a network, step by step; ``network`` is the mean, ``taken`` counts the steps.

    ``memory`` is the share of the mean that a step leaves, 0..1: weights count half as much after
    ``log 0.5 / log memory`` steps.
    """

    taken: Tensor

    def __init__(self, network: Network, *, memory: float = MEMORY) -> None:
        super().__init__()
        self.network: Network = copy.deepcopy(network).requires_grad_(False)
        self.memory = memory
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def restart(self, network: Network) -> None:
        """Begin again at a network whose start has been computed."""
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def follow(self, network: Network) -> None:
        """Move towards a network that has taken a step; buffers are taken as they are."""
        self.taken += 1
        taken = int(self.taken)
        # At first the memory grows with the steps: the start must not weigh for hundreds of them.
        memory = min(self.memory, (1 + taken) / (10 + taken))
        for mean, value in zip(self.network.parameters(), network.parameters(), strict=True):
            if value.requires_grad:  # what is frozen is the same in both
                mean.lerp_(value, 1 - memory)
        for kept, given in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(given)
