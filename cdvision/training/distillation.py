"""Distillation losses: the tails on decoded features against the uncompressed networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.heads.distribution_head import BINS
from cdvision.networks.mobilenet_v2 import MobileNetFront, MobileNetTail
from cdvision.networks.nanodet import DenseDetections, NanoDetFront, NanoDetTail

TEMPERATURE = 2.0
CLASSIFIER_SIDE = 224  # pixels


@dataclass(frozen=True)
class DetectionTarget:
    """What the uncompressed detector computes for a batch."""

    features: Tensor
    pyramid: tuple[Tensor, ...]
    dense: DenseDetections


@dataclass(frozen=True)
class ClassificationTarget:
    """What the uncompressed classifier computes for a batch."""

    features: Tensor
    embedding: Tensor
    logits: Tensor


class Teachers(nn.Module):
    """The uncompressed networks, frozen."""

    def __init__(
        self,
        detector: tuple[NanoDetFront, NanoDetTail],
        classifier: tuple[MobileNetFront, MobileNetTail],
    ) -> None:
        super().__init__()
        self.detector_front, self.detector_tail = detector
        self.classifier_front, self.classifier_tail = classifier
        self.requires_grad_(False)

    @torch.no_grad()
    def detect(self, features: Tensor) -> DetectionTarget:
        """Run the detector's tail on its front's features (N, 116, S/8, S/8)."""
        pyramid = self.detector_tail.pyramid(features)
        return DetectionTarget(
            features, pyramid, DenseDetections(*self.detector_tail.head(pyramid))
        )

    @torch.no_grad()
    def classify(self, image: Tensor, features: Tensor) -> ClassificationTarget:
        """Run the classifier's tail on (N, 3, S, S), whose front features are given.

        Crops above the 224² that the classifier was trained at are resized to it. Smaller ones are
        not: enlarging would teach the look of blur.
        """
        if image.shape[2] > CLASSIFIER_SIDE:
            features = self.classifier_front(self.classifier_view(image))
        embedding = self.classifier_tail.embed(features)
        logits = self.classifier_tail.classifier["1"](embedding)
        return ClassificationTarget(features, embedding, logits)

    @staticmethod
    def classifier_view(image: Tensor) -> Tensor:
        """Resize (N, 3, S, S) to the classifier's 224²."""
        size = (CLASSIFIER_SIDE, CLASSIFIER_SIDE)
        return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)


def unexplained_variance(found: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the target's variance, channel by channel: 0 exact, 1 the mean.

    The floor keeps channels that hardly ever fire from outweighing those that carry the image.
    """
    found, target = found.float(), target.float()  # half precision cannot hold sums of squares
    dims = [d for d in range(target.ndim) if d != 1]
    centred = target - target.mean(dims, keepdim=True)
    variance = centred.square().mean(dims) + 0.1 * centred.square().mean()
    return ((found - target).square().mean(dims) / variance).mean()


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


def classification_loss(
    embedding: Tensor, logits: Tensor, target: ClassificationTarget
) -> dict[str, Tensor]:
    """Return the classifier's terms: embedding, class distribution."""
    wanted_embedding = target.embedding.float()
    found = F.log_softmax(logits.float() / TEMPERATURE, dim=-1)
    wanted = F.log_softmax(target.logits.float() / TEMPERATURE, dim=-1)
    divergence = F.kl_div(found, wanted, log_target=True, reduction="batchmean")
    return {
        "embedding": (embedding.float() - wanted_embedding).square().mean()
        / wanted_embedding.var(),
        "classes": divergence * TEMPERATURE**2,
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
