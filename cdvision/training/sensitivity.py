"""Which directions of a network's features its answers depend on.

A code that spends its bits by the variance of features spends most of them on what the network
then ignores. Weighted by how much the answers move, the same linear code needs about a third of
the bytes: on 100 COCO photos, the first 464 components of NanoDet's stage 2 in zero-order coding,
AP 0.319 at 11,364 bytes by variance, and 0.321 at 3,189 bytes by sensitivity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.mobilenet_v2 import FRONT_CHANNELS as CLASSIFIER_CHANNELS
from cdvision.networks.nanodet import FRONT_CHANNELS
from cdvision.training.distillation import TEMPERATURE, Teachers

# Share of a plain identity in each metric: what no probe was sensitive to may matter elsewhere.
DETECTOR_FLOOR, CLASSIFIER_FLOOR = 0.05, 0.1
PROBES = 2  # random projections of the outputs of each image


class Sensitivity(nn.Module):
    """Metrics on 2x2 blocks of both networks' features, as symmetric square roots.

    Attributes:
        detector: (464, 464); the error of a block is ``|detector @ (found - target)|^2``.
        classifier: (128, 128).

    Both are scaled so that the mean of ``|root @ (x - mean)|^2 / dimensions`` is 1: the loss of a
    code that sends nothing.
    """

    detector: Tensor
    classifier: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("detector", torch.eye(4 * FRONT_CHANNELS))
        self.register_buffer("classifier", torch.eye(4 * CLASSIFIER_CHANNELS))

    def measure(self, teachers: Teachers, batches: Sequence[Tensor]) -> None:
        """Measure both metrics on images (N, 3, S, S), RGB 0..255; some hundred in all."""
        for root, probe, floor in (
            (self.detector, _detector_probe, DETECTOR_FLOOR),
            (self.classifier, _classifier_probe, CLASSIFIER_FLOOR),
        ):
            probes = (probe(teachers, b) for b in batches for _ in range(PROBES))
            root.copy_(metric_root(*block_moments(probes), floor))

    def detector_error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of features (N, 116, 2h, 2w)."""
        return weighted_error(self.detector, found, target)

    def classifier_error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of features (N, 32, 2h, 2w)."""
        return weighted_error(self.classifier, found, target)


def blocks(features: Tensor, block: int = 2) -> Tensor:
    """Gather the blocks of a map (N, C, block * h, block * w) as samples (n, block^2 * C)."""
    return F.pixel_unshuffle(features, block).movedim(1, -1).flatten(0, 2)


def weighted_error(root: Tensor, found: Tensor, target: Tensor, block: int = 2) -> Tensor:
    """Mean error of features (N, C, block * h, block * w) in a metric on their blocks."""
    difference = F.pixel_unshuffle((found - target).float(), block)
    return F.conv2d(difference, root[:, :, None, None]).float().square().mean()


def block_moments(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the covariance of blocks and the second moment of gradients there, both (D, D).

    Args:
        pairs: blocks (n, D) and gradients (n, D) of one batch each; one pair at least.
    """
    parts = [
        (len(x), x.sum(0), x.T @ x, g.T @ g)
        for x, g in ((samples.double(), gradients.double()) for samples, gradients in pairs)
    ]
    counts, sums, squares, moments = zip(*parts, strict=True)
    mean = sum(sums[1:], sums[0]) / sum(counts)
    second = sum(squares[1:], squares[0]) / sum(counts)
    return second - mean[:, None] * mean, sum(moments[1:], moments[0]) / sum(counts)


def _detector_probe(teachers: Teachers, image: Tensor) -> tuple[Tensor, Tensor]:
    """Feature blocks, and the gradient there of a random projection of scores and boxes.

    A score counts by the variance of its Bernoulli, a box by the confidence of its cell, so the
    thousands of empty cells, whose boxes nobody reads, count for nothing.
    """
    with torch.no_grad():
        features = teachers.detector_front(image)
    features.requires_grad_(True)
    scores, distances = teachers.detector_tail(features)
    probability = torch.sigmoid(scores.detach())
    confidence = probability.amax(-1, keepdim=True)
    score_probe = torch.randn_like(scores) * (probability * (1 - probability)).sqrt()
    box_probe = 0.1 * torch.randn_like(distances) * confidence.sqrt()
    projection = (scores * score_probe).sum() + (distances * box_probe).sum()
    (gradient,) = torch.autograd.grad(projection, features)
    return blocks(features.detach()), blocks(gradient)


def _classifier_probe(teachers: Teachers, image: Tensor) -> tuple[Tensor, Tensor]:
    """Feature blocks, and the gradient there of a random direction of the Fisher information."""
    with torch.no_grad():
        features = teachers.classifier_front(teachers.classifier_view(image))
    features.requires_grad_(True)
    logits = teachers.classifier_tail(features)
    probability = F.softmax(logits.detach() / TEMPERATURE, dim=-1)
    probe = torch.randn_like(logits) * probability.sqrt()
    probe = probe - probability * probe.sum(-1, keepdim=True)
    probe = probe + 0.02 * torch.randn_like(logits)  # classes that are no candidate yet
    (gradient,) = torch.autograd.grad((logits * probe).sum(), features)
    return blocks(features.detach()), blocks(gradient)


def metric_root(covariance: Tensor, moment: Tensor, floor: float) -> Tensor:
    """Square root of the gradients' second moment plus a floor, scaled to unit mean energy."""
    moment = moment / moment.diagonal().mean()
    moment = moment + floor * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    energy = (root @ covariance @ root).diagonal().mean()
    return (root / energy.sqrt()).float()
