"""Computes the descriptor of `small`: what its classifier makes of a photo, in some dozen bytes.

Nothing is trained by gradients, and that was measured: principal components in the metric of the
classes keep the answer for classes that no photo showed, a code trained on some thousand photos
loses it (TRAINING.md has the figures). The metric is the classifier's Fisher information, which a
linear last layer gives in closed form: ``W^T (diag p - p p^T) W``, the mean over photos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from cdvision.models.small.network import WINDOW, Small
from cdvision.training.feature_metric import metric_root
from cdvision.training.latent_start import gain_for, principal_components
from cdvision.training.photo_bank import PhotoBank

TARGET_BYTES = (14.0, 20.0, 30.0, 44.0, 64.0, 92.0, 130.0, 180.0)  # at qualities 1 to 8
MOST_PHOTOS = 4000
TEMPERATURE = 2.0  # of the classes: those that are no candidates yet count too
FLOOR = 0.1  # share of a plain identity: what classes do not depend on, other heads may
CHUNK = 64  # photos at a time through the classifier
LEAST_DEVIATION = 0.05  # of a symbol: below, it is zero anyway


def compute_descriptor(
    model: Small, banks: Sequence[PhotoBank], device: torch.device, seed: int = 0
) -> int:
    """Set all that codes the classifier's pooled features; return the number of photos used."""
    embeddings = embed(model.descriptor.network.to(device), banks, device, seed)
    set_descriptor(model.to(device), embeddings, TARGET_BYTES)
    return len(embeddings)


@torch.no_grad()
def embed(
    network: nn.Module, banks: Sequence[PhotoBank], device: torch.device, seed: int = 0
) -> Tensor:
    """Return pooled features (n, 1280) of square crops, of ``MOST_PHOTOS`` at most."""
    network.to(memory_format=torch.channels_last).eval()
    rng = np.random.default_rng(seed)
    photos = [photo for bank in banks for photo in bank.photos]
    # Crops are not resampled: a network sees other features of what is blurred. Photos that are
    # smaller than a crop are enlarged only where there are no others.
    large = [photo for photo in photos if min(photo.shape[1:]) >= WINDOW] or photos
    drawn = rng.permutation(len(large))[:MOST_PHOTOS]
    found = []
    for first in tqdm(range(0, len(drawn), CHUNK), desc="pooled features", disable=None):
        crops = [_crop(large[place], rng) for place in drawn[first : first + CHUNK]]
        batch = torch.cat(crops).to(device, memory_format=torch.channels_last)
        found.append(network(batch))
    return torch.cat(found)


def _crop(photo: Tensor, rng: np.random.Generator) -> Tensor:
    """Cut a window of the classifier's size: (1, 3, 224, 224) float32."""
    height, width = photo.shape[1:]
    if min(height, width) < WINDOW:
        return F.interpolate(photo[None].float(), (WINDOW, WINDOW), mode="bilinear")
    top, left = rng.integers(height - WINDOW + 1), rng.integers(width - WINDOW + 1)
    return photo[None, :, top : top + WINDOW, left : left + WINDOW].float()


@torch.no_grad()
def set_descriptor(model: Small, embeddings: Tensor, targets: Sequence[float]) -> None:
    """Set linear paths, gains and probabilities by pooled features (n, 1280).

    ``targets`` are bytes of a descriptor at each quality.
    """
    samples = embeddings.double()
    mean = samples.mean(0)
    covariance = (samples - mean).T @ (samples - mean) / len(samples)
    root = metric_root(
        covariance, fisher_information(model.classifier_tail, embeddings), FLOOR
    ).double()
    elements = model.descriptor.project.out_features
    variance, basis = principal_components(root @ covariance @ root, elements)
    # ``basis`` is orthogonal, ``root`` is not: the way back needs its inverse.
    analysis, synthesis = basis.T @ root, torch.linalg.solve(root, basis)
    _set_linear(model.descriptor.project, analysis, -analysis @ mean)
    _set_linear(model.classifier_tap.expand, synthesis, mean)
    _set_rates(model, variance.clamp_min(1e-9).sqrt().float(), targets)


def fisher_information(last: nn.Linear, embeddings: Tensor) -> Tensor:
    """Second moment (1280, 1280) of the gradients of the classes' log-probabilities."""
    weight = last.weight.double()
    p = F.softmax(last(embeddings) / TEMPERATURE, dim=-1).double()
    # The mean of ``diag p - p p^T`` over photos, without a matrix of all classes a photo.
    pooled = p @ weight
    return weight.T @ (p.mean(0)[:, None] * weight) - pooled.T @ pooled / len(p)


def _set_linear(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def _set_rates(model: Small, deviation: Tensor, targets: Sequence[float]) -> None:
    """Choose one gain a quality by its bytes, and the prior of the deviations that follow."""
    encoder, prior = model.descriptor, model.descriptor.prior
    for quality, target in enumerate(targets):
        gain = gain_for(deviation, 8 * target)
        encoder.log_gain[quality] = math.log(gain)
        model.classifier_tap.log_rescale[quality] = -math.log(gain)
        # Three logistics of scale s, half a scale apart, have about the deviation 1.9 s.
        scale = (gain * deviation).clamp_min(LEAST_DEVIATION) / 1.9
        prior.log_scale[quality] = torch.log(scale)[:, None]
        prior.location[quality] = torch.linspace(-0.5, 0.5, 3).to(scale) * scale[:, None]
