"""A head start: latents begin as the best linear code of all networks' features together.

The best, in the metric of what the networks' outputs depend on. One that passes no gradient, an
ONNX file, cannot be asked for that: its plain variance counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.fitting.examples import Batch
from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.stage import start_from_regression
from cdvision.models.any_network.network import AnyNetworkModel, Gather, metric_block
from cdvision.networks.scales import QUALITIES
from cdvision.package.card import FeatureSpec
from cdvision.training.feature_metric import (
    PROBES,
    block_moments,
    blocks,
    metric_root,
    weighted_error,
)
from cdvision.training.hyper_start import start_hyper
from cdvision.training.latent_start import (
    principal_components,
    set_linear,
    start_gains,
    start_prediction,
)
from cdvision.training.transmission import transmit

LATENT_UNIT = 2.0  # of the latents: it puts the weights before and behind them on one scale
HYPER_BATCHES = 4  # from which the hyper-latent is started
SILENT = 1e-12  # variance of what never changes
REGRESSION_CELLS = 20_000  # of latents, for each tap
FLOOR = 0.1  # share of a plain identity: what no probe was sensitive to may matter elsewhere

DrawCrops = Callable[[int, np.random.Generator], Tensor]
"""Gives so many crops (N, 3, S, S) of training photos, RGB in 0..255."""


class NetworkMetric(nn.Module):
    """The metric on one network's features: a block's error is ``|root @ difference|^2``."""

    # (D, D), D the values of a block; scaled so that a code that sends nothing loses 1.
    root: Tensor

    def __init__(self, spec: FeatureSpec) -> None:
        super().__init__()
        self.block = metric_block(spec)
        self.register_buffer("root", torch.eye(spec.channels * self.block**2))

    def measure(self, network: SplitNetwork, batches: Sequence[Tensor]) -> Tensor:
        """Measure on images (N, 3, S, S); return the covariance of blocks (D, D), float64."""
        probes = (self._probe(network, image) for image in batches for _ in range(PROBES))
        covariance, moment = block_moments(probes)
        # Where no gradient passes, every direction matters alike.
        if not moment.any():
            moment = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        self.root.copy_(metric_root(covariance, moment, FLOOR))
        return covariance

    def error(self, found: Tensor, target: Tensor) -> Tensor:
        """Mean weighted error of features (N, C, H / stride, W / stride)."""
        return weighted_error(self.root, found, target, self.block)

    def _probe(self, network: SplitNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature blocks, and the gradient there of a random projection of the outputs."""
        features = network.features(image).requires_grad_(True)
        gradient = torch.zeros_like(features)
        parts = list(_projections(network.outputs(features)))
        if parts:
            (gradient,) = torch.autograd.grad(torch.stack(parts).sum(), features)
        return blocks(features.detach(), self.block), blocks(gradient, self.block)


def _projections(outputs: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Project every output that passes gradients; each counts the same, whatever its size."""
    for value in outputs.values():
        if value.requires_grad:
            plain = value.detach()
            unit = (plain - plain.mean()).square().sum().sqrt().clamp_min(1e-12)
            # Of random sums, the mean square of the gradient is that of all outputs added up.
            yield (value * torch.randn_like(plain)).sum() / unit


@torch.no_grad()
def start_latents(
    model: AnyNetworkModel,
    networks: Mapping[str, SplitNetwork],
    metrics: Mapping[str, NetworkMetric],
    images: Sequence[Tensor],
    targets: Sequence[float],
) -> None:
    """Measure the metrics and set everything up to the latents and their probabilities.

    ``images`` are batches (N, 3, S, S) of RGB in 0..255, some dozens of crops in all; ``targets``,
    bytes of a reference photo at each quality, choose the first gains.
    """
    encoder = model.encoder
    for name, network in networks.items():
        with torch.enable_grad():
            covariance = metrics[name].measure(network, images)
        _start_gather(cast(Gather, encoder.gathers[name]), metrics[name], covariance)
    gathered = [encoder.gather([n.features(b) for n in networks.values()]) for b in images]
    samples = torch.cat([batch.movedim(1, -1).flatten(0, 2) for batch in gathered]).double()
    mean = samples.mean(0)
    covariance = (samples - mean).T @ (samples - mean) / len(samples)
    # Features are in the metric of their outputs: principal components lose least of the answers.
    variance, basis = principal_components(covariance, model.shape.channels)
    # Where the networks bring fewer directions than there are latents, the others are silent.
    missing = model.shape.channels - len(variance)
    variance, weight = F.pad(variance, (0, missing)), F.pad(basis.T, (0, 0, 0, missing)).float()
    set_linear(encoder.analysis.linear, weight, -weight @ mean.float())
    start_gains(model, variance.clamp_min(SILENT).float(), targets)
    start_prediction(model, gathered[:HYPER_BATCHES])
    start_hyper(model, gathered[:HYPER_BATCHES])


def _start_gather(gather: Gather, metric: NetworkMetric, covariance: Tensor) -> None:
    """Mix features into the components of their metric, the greatest first."""
    # In the root of the metric, every direction is as long as the outputs depend on it.
    root = metric.root.double()
    count = gather.mix.out_channels
    _, basis = principal_components(root @ covariance @ root, count)
    # One unit of energy for each network, however many values and blocks it brings.
    blocks = gather.gathered // count
    weight = basis.T @ root * (LATENT_UNIT / (len(root) * blocks) ** 0.5)
    gather.set_mix(weight.float())


def start_taps(
    model: AnyNetworkModel,
    networks: Mapping[str, SplitNetwork],
    draw: DrawCrops,
    rng: np.random.Generator,
) -> None:
    """Set every tap to the regression of its network's features on what arrives."""
    for name in networks:
        draw_batch = partial(_received_crops, model, networks, name, draw)
        features = draw_batch(8, rng).features
        spread = features.movedim(1, 0).flatten(1).std(1).clamp_min(1e-6)
        start_from_regression(model.tap(name), draw_batch, spread, rng, cells=REGRESSION_CELLS)


@torch.no_grad()
def _received_crops(
    model: AnyNetworkModel,
    networks: Mapping[str, SplitNetwork],
    name: str,
    draw: DrawCrops,
    size: int,
    rng: np.random.Generator,
) -> Batch:
    """Return dequantised latents of random qualities beside the features of the named network."""
    image = draw(size, rng)
    features = {name: network.features(image) for name, network in networks.items()}
    gathered = model.encoder.gather(list(features.values()))
    quality = torch.from_numpy(rng.integers(QUALITIES, size=size)).to(image.device)
    latents = transmit(model, gathered, quality).y
    # Crops are cut inside photos: every cell counts.
    return Batch(latents, quality, features[name], torch.ones_like(features[name][:, :1]))
