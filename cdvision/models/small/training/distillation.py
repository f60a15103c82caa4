"""Distillation losses: the tails on decoded features against the uncompressed networks."""

from __future__ import annotations

from dataclasses import dataclass

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
from cdvision.training.feature_metric import unexplained_variance


@dataclass(frozen=True)
class DetectionTarget:
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


def detection_loss(
    pyramid: tuple[Tensor, ...], dense: DenseDetections, target: DetectionTarget
) -> dict[str, Tensor]:
    """Return the detector's terms: pyramid, scores, boxes."""
    found = DenseDetections(*(d.float() for d in dense))
    wanted = DenseDetections(*(d.float() for d in target.dense))
    score = torch.sigmoid(wanted.scores)
    confidence = score.amax(-1)
    evidence = confidence.sum().clamp_min(1.0)
    return {
        "pyramid": _mean(
            [unexplained_variance(f, t) for f, t in zip(pyramid, target.pyramid, strict=True)]
        ),
        "scores": _score_loss(found.scores, score) / evidence,
        "boxes": _box_loss(found.distances, wanted.distances, confidence) / evidence,
    }


def _score_loss(logits: Tensor, score: Tensor) -> Tensor:
    """Quality focal loss against soft scores: the many empty cells must not drown the few."""
    weight = (torch.sigmoid(logits) - score).abs().detach()
    entropy = F.binary_cross_entropy_with_logits(logits, score, reduction="none")
    return (weight * entropy).sum()


def _box_loss(logits: Tensor, wanted: Tensor, confidence: Tensor) -> Tensor:
    shape = (*logits.shape[:-1], 4, BINS)
    found = F.log_softmax(logits.view(shape), dim=-1)
    target = F.log_softmax(wanted.view(shape), dim=-1)
    divergence = F.kl_div(found, target, log_target=True, reduction="none").sum((-1, -2))
    return (divergence * confidence).sum()


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
