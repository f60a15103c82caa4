"""Which directions of a network's features its answers depend on.

A code that spends its bits by the variance of features spends most of them on what the network
then ignores. Weighted by how much the answers move, the same linear code needs about a third of
the bytes: on 100 COCO photos, the first 464 components of NanoDet's stage 2 in zero-order coding,
AP 0.319 at 11,364 bytes by variance, and 0.321 at 3,189 bytes by sensitivity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdvision.models.small.nanodet import DetectorFeatures
from cdvision.models.small.network import PACKED_CHANNELS, pack
from cdvision.models.small.training.distillation import Teacher
from cdvision.training.feature_metric import (
    PROBES,
    block_moments,
    blocks,
    metric_root,
    weighted_error,
)

FLOOR = 0.05  # share of a plain identity: what no probe was sensitive to may matter elsewhere


class Sensitivity(nn.Module):
    """The metric on the detector's features, both scales packed, as a symmetric square root.

    Attributes:
        root: (696, 696); the error of a cell is ``|root @ (found - target)|^2``, scaled so that
            the mean of ``|root @ (x - mean)|^2 / 696`` is 1: the loss of a code that sends nothing.
    """

    root: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("root", torch.eye(PACKED_CHANNELS))

    def measure(self, teacher: Teacher, batches: Sequence[Tensor]) -> None:
        """Measure on images (N, 3, S, S), RGB 0..255; some hundred in all."""
        probes = (_probe(teacher, batch) for batch in batches for _ in range(PROBES))
        self.root.copy_(metric_root(*block_moments(probes), FLOOR))

    def error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of packed features (N, 696, h, w)."""
        return weighted_error(self.root, found, target, 1)


def _probe(teacher: Teacher, image: Tensor) -> tuple[Tensor, Tensor]:
    """Packed features, and the gradient there of a random projection of scores and boxes.

    A score counts by the variance of its Bernoulli, a box by the confidence of its cell, so the
    thousands of empty cells, whose boxes nobody reads, count for nothing.
    """
    with torch.no_grad():
        found = teacher.front(image)
    features = DetectorFeatures(*(scale.requires_grad_(True) for scale in found))
    scores, distances = teacher.tail(features)
    probability = torch.sigmoid(scores.detach())
    confidence = probability.amax(-1, keepdim=True)
    score_probe = torch.randn_like(scores) * (probability * (1 - probability)).sqrt()
    box_probe = 0.1 * torch.randn_like(distances) * confidence.sqrt()
    projection = (scores * score_probe).sum() + (distances * box_probe).sum()
    gradients = DetectorFeatures(*torch.autograd.grad(projection, features))
    packed = pack(DetectorFeatures(*(scale.detach() for scale in features)))
    return blocks(packed, 1), blocks(pack(gradients), 1)
