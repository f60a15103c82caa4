"""Which directions of a face's style rows its picture and its attributes depend on.

Most directions of W+ hardly show. Weighted by how much the answers move, bits go where they count;
see ``cdvision.models.small.training.distillation`` for what that is worth in photos.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

FLOOR = 1e-3  # least share of a plain identity: what no probe was sensitive to may matter elsewhere
SPARE = 4  # one face of so many tells what the kept directions leave out

RowsReader = Callable[[Tensor], Tensor]
"""Rows (N, rows, style) to anything (N, ...) whose squared error counts."""


class StyleMetric(nn.Module):
    """Squared error of rows, ``values`` in all, in the eyes of what reads them.

    Sending nothing, so that the receiver takes the mean of all faces, has an error of 1.
    """

    center: Tensor
    root: Tensor
    floor: Tensor

    def __init__(self, values: int, directions: int = 256) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(values))
        self.register_buffer("root", torch.zeros(min(directions, values), values))
        self.register_buffer("floor", torch.ones(1))

    def measure(self, rows: Tensor, readers: Sequence[RowsReader]) -> None:
        """Probe what reads rows with those of some hundred faces, (M, rows, style)."""
        # A second moment whose trace is 1: each reader counts as much as the others.
        gradients = [_balanced(gradients_of(reader, rows)) for reader in readers]
        spare = torch.cat([part[::SPARE] for part in gradients])
        probed = torch.cat([part[torch.arange(len(part)) % SPARE > 0] for part in gradients])
        # Right singular vectors of the gradients are the eigenvectors of their second moment.
        _, strength, directions = torch.linalg.svd(probed / len(probed) ** 0.5, full_matrices=False)
        kept = min(len(self.root), len(strength))
        self.center.copy_(rows.flatten(1).mean(0))
        self.root.zero_()
        self.root[:kept] = strength[:kept, None] * directions[:kept]
        self.floor.fill_(_left_out(spare, directions[:kept]))
        # The unit: what the mean of all faces misses of each.
        scale = self.energy(rows - self.center.view_as(rows[0])).mean()
        self.root /= scale.sqrt()
        self.floor /= scale

    def energy(self, difference: Tensor) -> Tensor:
        """Return the weighted square (N,) of differences (N, rows, style)."""
        flat = difference.flatten(1)
        return (flat @ self.root.T).square().sum(1) + self.floor * flat.square().sum(1)

    def forward(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return the error (N,) of rows."""
        return self.energy(found - wanted)


def gradients_of(reader: RowsReader, rows: Tensor, batch: int = 16) -> Tensor:
    """Return the gradient at every face of a random projection of the answer, (M, rows * style)."""
    gradients = []
    for part in torch.split(rows, batch):
        at = part.detach().requires_grad_(True)
        found = reader(at)
        # In the mean over projections, its square is that of all gradients of the answer.
        (gradient,) = torch.autograd.grad((found * torch.randn_like(found)).sum(), at)
        gradients.append(gradient.flatten(1))
    return torch.cat(gradients)


def _balanced(gradients: Tensor) -> Tensor:
    return gradients / gradients.square().sum(1).mean().clamp_min(1e-12).sqrt()


def _left_out(spare: Tensor, directions: Tensor) -> float:
    """Return the second moment of other faces' gradients in a direction that is not kept."""
    # Of other faces: a few hundred probes fit a few hundred directions so well that hardly anything
    # is left outside of those that they were made from.
    outside = spare - (spare @ directions.T) @ directions
    remaining = max(1, directions.shape[1] - len(directions))
    return max(float(outside.square().sum(1).mean()) / remaining, FLOOR / directions.shape[1])
