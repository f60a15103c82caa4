"""A linear layer that learns on standardised inputs and is used on the raw ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StandardisedLinear(nn.Module):
    """A linear layer (classes, C), trained in place, behind (x - mean) / spread."""

    # Averages of late features differ by hundredths from photo to photo: a layer that reads them
    # as they are needs weights of tens, and had not left its start after two thousand steps.
    mean: Tensor
    spread: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.register_buffer("mean", torch.zeros(linear.in_features))
        self.register_buffer("spread", torch.ones(linear.in_features))

    @torch.no_grad()
    def measure(self, samples: Tensor) -> None:
        """Take mean and spread from samples (n, C)."""
        spread = samples.std(0)
        self.mean.copy_(samples.mean(0))
        # With a floor: what hardly varies must count less, not more.
        self.spread.copy_(spread + 0.5 * spread.mean() + 1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C) to (N, classes)."""
        logits: Tensor = self.linear((x - self.mean) / self.spread)
        return logits

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Return the one linear layer that does the same."""
        # W (x - m) / s + b  =  (W / s) x  +  b - (W / s) m
        weight = self.linear.weight / self.spread
        folded = nn.Linear(self.linear.in_features, self.linear.out_features).to(weight.device)
        folded.weight.copy_(weight)
        folded.bias.copy_(self.linear.bias - weight @ self.mean)
        return folded
