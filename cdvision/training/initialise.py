"""A head start for `small`: its linear paths begin as principal components of the features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.small import HIGHEST_SCALE, LATENT_CHANNELS, LOWEST_SCALE, Small
from cdvision.networks.taps import UpsamplingTap
from cdvision.training.distillation import Teachers


def index_step(levels: int) -> float:
    """Natural logarithm of the ratio of neighbouring scales in the package's table."""
    return math.log(HIGHEST_SCALE / LOWEST_SCALE) / (levels - 1)


@torch.no_grad()
def initialise_small(model: Small, teachers: Teachers, images: list[Tensor], levels: int) -> None:
    """Copy the task networks and set the linear paths to a KLT of 2x2 blocks of features.

    Rounding principal components is the best linear transform code; training starts there
    instead of from noise, which saves most of a CPU run.

    Args:
        model: changed in place.
        teachers: the uncompressed networks.
        images: batches (N, 3, S, S) of RGB 0..255, some dozens of crops in all.
        levels: number of scales in the table.
    """
    model.encoder.front.load_state_dict(teachers.detector_front.state_dict())
    model.tails["nanodet_plus_m"].load_state_dict(teachers.detector_tail.state_dict())
    model.tails["mobilenet_v2"].load_state_dict(teachers.classifier_tail.state_dict())

    features = [teachers.detector_front(batch) for batch in images]
    samples = torch.cat([F.pixel_unshuffle(f, 2).movedim(1, -1).flatten(0, 2) for f in features])
    mean, spread = samples.mean(0), _shared_spread(samples)
    normal = (samples - mean) / spread
    variance, basis = torch.linalg.eigh(normal.T @ normal / len(normal))
    variance, basis = variance.flip(0)[:LATENT_CHANNELS], basis.flip(1)[:, :LATENT_CHANNELS]

    _set_linear(model.encoder.analysis.linear, basis.T / spread, -(basis.T / spread) @ mean)
    tap = model.taps["nanodet_plus_m"]
    if isinstance(tap, UpsamplingTap):
        _set_linear(tap.expand, spread[:, None] * basis, mean)
    _start_indices(model, variance, levels)


def _shared_spread(samples: Tensor) -> Tensor:
    """Standard deviation of every feature, shared by the four positions of its 2x2 block."""
    per_feature = samples.std(0).view(-1, 4).mean(1)
    return (per_feature + 0.1 * per_feature.mean()).repeat_interleave(4)


def _set_linear(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight.copy_(weight[:, :, None, None])
    if conv.bias is not None:
        conv.bias.copy_(bias)


def _start_indices(model: Small, variance: Tensor, levels: int) -> None:
    """Let the hyper-decoder begin with the scale that each channel has on average."""
    scale = torch.sqrt(variance) * torch.exp(model.encoder.log_gain)
    index = torch.log(scale / LOWEST_SCALE) / index_step(levels)
    model.hyper_decoder.quality_bias.copy_(index.clamp(0, levels - 1))
