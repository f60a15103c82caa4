"""What `small`'s map learns from: the uncompressed detector, its losses and the metric of features.

Which directions of features count is measured. A code that spends its bits by the variance of
features spends most of them on what the network then ignores. Weighted by how much the answers
move, the same linear code needs about a third of the bytes: on 100 COCO photos, the first 464
components of NanoDet's stage 2 in zero-order coding, AP 0.319 at 11,364 bytes by variance, and
0.321 at 3,189 bytes by sensitivity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.distribution_head import BINS
from cdvision.models.small.nanodet import (
    DenseDetections,
    DetectorFeatures,
    NanoDetFront,
    NanoDetTail,
)
from cdvision.models.small.network import PACKED_CHANNELS, pack
from cdvision.training.feature_metric import (
    PROBES,
    block_moments,
    blocks,
    metric_root,
    unexplained_variance,
    weighted_error,
)

FLOOR = 0.05  # share of a plain identity: what no probe was sensitive to may matter elsewhere
WEIGHTS = {
    "detect/features": 1.0, "detect/pyramid": 1.0, "detect/scores": 1.0, "detect/boxes": 0.25,
}  # fmt: skip


class DetectionTarget(NamedTuple):
    """What the uncompressed detector computes for a batch."""

    pyramid: tuple[Tensor, ...]
    dense: DenseDetections


class Teacher(nn.Module):
    """The uncompressed detector, frozen."""

    def __init__(self, front: NanoDetFront, tail: NanoDetTail) -> None:
        super().__init__()
        self.front, self.tail = front, tail
        self.requires_grad_(False)

    @torch.no_grad()
    def detect(self, features: DetectorFeatures) -> DetectionTarget:
        """Run the detector's tail on its front's features."""
        pyramid = self.tail.pyramid(features)
        return DetectionTarget(pyramid, DenseDetections(*self.tail.head(pyramid)))


class Sensitivity(nn.Module):
    """The metric on the detector's features, both scales packed, as a symmetric square root.

    Attributes:
        root: (P, P), P = 696 for the plain detector; the error of a cell is
            ``|root @ (found - target)|^2``, scaled so that the mean of
            ``|root @ (x - mean)|^2 / P`` is 1: the loss of a code that sends nothing.
    """

    root: Tensor

    def __init__(self, packed: int = PACKED_CHANNELS) -> None:
        super().__init__()
        self.register_buffer("root", torch.eye(packed))

    def measure(self, teacher: Teacher, batches: Sequence[Tensor]) -> None:
        """Measure on images (N, 3, S, S), RGB 0..255; some hundred in all."""
        probes = (_probe(teacher, batch) for batch in batches for _ in range(PROBES))
        self.root.copy_(metric_root(*block_moments(probes), FLOOR))

    def error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of packed features (N, P, h, w)."""
        return weighted_error(self.root, found, target, 1)


def _probe(teacher: Teacher, image: Tensor) -> tuple[Tensor, Tensor]:
    """Packed features, and the gradient there of a random projection of scores and boxes."""
    with torch.no_grad():
        found = teacher.front(image)
    features = DetectorFeatures(*(scale.requires_grad_(True) for scale in found))
    scores, distances = teacher.tail(features)
    probability = torch.sigmoid(scores.detach())
    confidence = probability.amax(-1, keepdim=True)
    # A score counts by the variance of its Bernoulli, a box by the confidence of its cell: the
    # thousands of empty cells, whose boxes nobody reads, count for nothing. Weights are roots
    # because the metric is the gradients' second moment.
    score_probe = torch.randn_like(scores) * (probability * (1 - probability)).sqrt()
    box_probe = 0.1 * torch.randn_like(distances) * confidence.sqrt()
    projection = (scores * score_probe).sum() + (distances * box_probe).sum()
    gradients = DetectorFeatures(*torch.autograd.grad(projection, features))
    packed = pack(DetectorFeatures(*(scale.detach() for scale in features)))
    return blocks(packed, 1), blocks(pack(gradients), 1)


def detection_loss(
    pyramid: tuple[Tensor, ...], dense: DenseDetections, target: DetectionTarget
) -> dict[str, Tensor]:
    """Return the detector's terms: pyramid, scores, boxes."""
    found = DenseDetections(*(d.float() for d in dense))
    wanted = DenseDetections(*(d.float() for d in target.dense))
    score = torch.sigmoid(wanted.scores)
    confidence = score.amax(-1)
    # Sums over cells are divided by the objects that they hold, not by their number: else a busy
    # photo would count no more than an empty one.
    evidence = confidence.sum().clamp_min(1.0)
    levels = [unexplained_variance(f, t) for f, t in zip(pyramid, target.pyramid, strict=True)]
    return {
        "pyramid": torch.stack(levels).mean(),
        "scores": _score_loss(found.scores, score) / evidence,
        "boxes": _box_loss(found.distances, wanted.distances, confidence) / evidence,
    }


def _score_loss(logits: Tensor, score: Tensor) -> Tensor:
    """Quality focal loss against soft scores: the many empty cells must not drown the few."""
    # Detached: the weight chooses cells; a gradient through it would reward being wrong less.
    weight = (torch.sigmoid(logits) - score).abs().detach()
    entropy = F.binary_cross_entropy_with_logits(logits, score, reduction="none")
    return (weight * entropy).sum()


def _box_loss(logits: Tensor, wanted: Tensor, confidence: Tensor) -> Tensor:
    # A side is a distribution over bins: the teacher's doubts are learned, not only its mean.
    shape = (*logits.shape[:-1], 4, BINS)
    found = F.log_softmax(logits.view(shape), dim=-1)
    target = F.log_softmax(wanted.view(shape), dim=-1)
    divergence = F.kl_div(found, target, log_target=True, reduction="none").sum((-1, -2))
    # Nobody reads the boxes of empty cells.
    return (divergence * confidence).sum()


def weighted_sum(terms: dict[str, Tensor]) -> Tensor:
    """Add up the terms of a comparison, each by its weight."""
    return torch.stack([WEIGHTS[name] * value for name, value in terms.items()]).sum()
