"""A head start for `small`: its linear paths begin as the best linear code of the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cdvision.models.small.nanodet import COARSE_CHANNELS, FINE_CHANNELS
from cdvision.models.small.network import Small
from cdvision.models.small.training.distillation import Sensitivity, Teacher
from cdvision.networks.initial_weights import load_mobilenet_embedding
from cdvision.networks.latent_model import LATENT_CHANNELS
from cdvision.training.feature_metric import blocks
from cdvision.training.hyper_start import start_hyper
from cdvision.training.latent_start import (
    principal_components,
    set_linear,
    start_gains,
    start_prediction,
)
from cdvision.training.rate_control import TARGET_BYTES

LATENT_UNIT = 0.1  # of the latents: it puts the weights before and behind them on one scale


@torch.no_grad()
def start_small(
    model: Small,
    teacher: Teacher,
    sensitivity: Sensitivity,
    images: list[Tensor],
    weights: Path,
    *,
    few: Sequence[Tensor],
) -> None:
    """Copy detector and classifier; begin with the best linear code of the detector's features.

    Of all linear codes of the features' cells, the latents start as the one that costs the
    detector's answers least; training starts there instead of from noise.

    Args:
        model: changed in place.
        teacher: the uncompressed detector.
        sensitivity: the metric of its features, measured.
        images: batches (N, 3, S, S) of RGB 0..255, some dozens of crops in all.
        weights: folder of the initial weights, for the classifier.
        few: those of the batches that set prediction and hyper-latent.
    """
    model.encoder.front.load_state_dict(teacher.front.state_dict())
    model.detector_tail.load_state_dict(teacher.tail.state_dict())
    _start_linear(model, sensitivity, images)
    network, last = load_mobilenet_embedding(weights)
    model.descriptor.network.load_state_dict(network.state_dict())
    model.classifier_tail.load_state_dict(last.state_dict())
    features = [model.encoder.features(batch) for batch in few]
    start_prediction(model, features)
    start_hyper(model, features)


def _start_linear(model: Small, sensitivity: Sensitivity, images: list[Tensor]) -> None:
    """Set analysis and tap to principal components in the metric, gains by their variances."""
    samples = torch.cat([blocks(model.encoder.features(batch), 1) for batch in images]).double()
    mean = samples.mean(0)
    # Components of ``root @ x`` and not of x: equal errors of latents then cost answers equally.
    weight = sensitivity.root.double() * LATENT_UNIT
    weighted = (samples - mean) @ weight
    covariance = weighted.T @ weighted / len(weighted)
    variance, basis = principal_components(covariance, LATENT_CHANNELS)
    analysis = (basis.T @ weight).float()
    # The bias takes the mean away, so that latents lie around zero; the tap adds it again.
    set_linear(model.encoder.analysis.linear, analysis, -analysis @ mean.float())
    # The weight is no rotation: going back needs its inverse.
    synthesis = torch.linalg.solve(weight, basis).float()
    scales = [4 * FINE_CHANNELS, COARSE_CHANNELS]
    fine, coarse = torch.split(synthesis, scales)
    fine_mean, coarse_mean = torch.split(mean.float(), scales)
    set_linear(model.detector_tap.fine, fine, fine_mean)
    set_linear(model.detector_tap.coarse, coarse, coarse_mean)
    start_gains(model, variance.float(), TARGET_BYTES)
