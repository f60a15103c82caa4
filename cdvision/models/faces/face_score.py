"""Face, or something else: one logistic unit on the inversion encoder's pooled features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cdvision.models.faces.inversion_encoder import Standardise


class FaceScore(nn.Module):
    """Pooled features (N, P) to logits (N,); an image scores as a face at ``threshold`` or more.

    Args:
        size: P, ``InversionEncoder.pooled_size``.
    """

    threshold: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.standard = Standardise(size)
        self.unit = nn.Linear(size, 1)
        self.register_buffer("threshold", torch.zeros(()))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return one logit an image."""
        logits: Tensor = self.unit(self.standard(pooled))
        return logits[:, 0]
