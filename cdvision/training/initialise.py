"""A head start for `small`: its linear paths begin as the best linear code of the features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.mobilenet_v2 import FRONT_CHANNELS as CLASSIFIER_CHANNELS
from cdvision.networks.nanodet import FRONT_CHANNELS
from cdvision.networks.small import HIGHEST_SCALE, LATENT_CHANNELS, LOWEST_SCALE, Small
from cdvision.training.distillation import Teachers


def index_step(levels: int) -> float:
    """Natural logarithm of the ratio of neighbouring scales in the package's table."""
    return math.log(HIGHEST_SCALE / LOWEST_SCALE) / (levels - 1)


# How much a unit of the classifier's features counts beside one of the detector's, which has
# nearly four times as many of them.
CLASSIFIER_WEIGHT = 1.5


@torch.no_grad()
def initialise_small(model: Small, teachers: Teachers, images: list[Tensor], levels: int) -> None:
    """Copy the task networks and set the linear paths to principal components.

    Of all linear codes of 2x2 blocks of both networks' features, the latents start as the one
    that loses least; training starts there instead of from noise, which saves most of a CPU run.

    Args:
        model: changed in place.
        teachers: the uncompressed networks.
        images: batches (N, 3, S, S) of RGB 0..255, some dozens of crops in all.
        levels: number of scales in the table.
    """
    model.encoder.front.load_state_dict(teachers.detector_front.state_dict())
    model.encoder.classifier_front.load_state_dict(teachers.classifier_front.state_dict())
    model.detector_tail.load_state_dict(teachers.detector_tail.state_dict())
    model.classifier_tail.load_state_dict(teachers.classifier_tail.state_dict())

    seen = _Standardised(_blocks([model.encoder.features(batch) for batch in images]))
    sizes = [4 * FRONT_CHANNELS, 4 * CLASSIFIER_CHANNELS]
    weight = torch.tensor([1.0, CLASSIFIER_WEIGHT]).repeat_interleave(torch.tensor(sizes))
    weight = weight.to(seen.values)
    weighted = seen.values * weight
    variance, basis = torch.linalg.eigh(weighted.T @ weighted / len(weighted))
    variance, basis = variance.flip(0)[:LATENT_CHANNELS], basis.flip(1)[:, :LATENT_CHANNELS]

    analysis = basis.T * (weight / seen.spread)
    _set_linear(model.encoder.analysis.linear, analysis, -analysis @ seen.mean)
    synthesis = (seen.spread / weight)[:, None] * basis
    to_detector, to_classifier = torch.split(synthesis, sizes)
    detector_mean, classifier_mean = torch.split(seen.mean, sizes)
    _start_taps(model, to_detector, detector_mean, to_classifier, classifier_mean)
    _start_indices(model, variance, levels)


class _Standardised:
    """Samples (n, features) without mean and spread, and both apart."""

    def __init__(self, samples: Tensor) -> None:
        self.mean = samples.mean(0)
        # One spread for the four positions of a block; a floor for channels that hardly fire.
        per_feature = samples.std(0).view(-1, 4).mean(1)
        self.spread = (per_feature + 0.1 * per_feature.mean()).repeat_interleave(4)
        self.values = (samples - self.mean) / self.spread


def _blocks(maps: list[Tensor]) -> Tensor:
    """Gather the 2x2 blocks of maps (N, C, 2h, 2w) as samples (n, 4C)."""
    return torch.cat([F.pixel_unshuffle(m, 2).movedim(1, -1).flatten(0, 2) for m in maps])


def _start_taps(
    model: Small,
    detector: Tensor,
    detector_mean: Tensor,
    classifier: Tensor,
    classifier_mean: Tensor,
) -> None:
    _set_linear(model.detector_tap.expand, detector, detector_mean)
    tap, count = model.classifier_tap, len(classifier) // 4
    tap.expand.weight[: 4 * count] = classifier[:, :, None, None]
    _bias(tap.expand)[: 4 * count] = classifier_mean
    tap.project.weight.mul_(0.1)
    tap.project.weight[:, :count] = torch.eye(count).to(classifier)[:, :, None, None]
    _bias(tap.project).zero_()


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        raise ValueError("expected a convolution with a bias")
    return conv.bias


def _set_linear(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight.copy_(weight[:, :, None, None])
    _bias(conv).copy_(bias)


def _start_indices(model: Small, variance: Tensor, levels: int) -> None:
    """Let the hyper-decoder begin with the scale that each channel has on average."""
    scale = torch.sqrt(variance) * torch.exp(model.encoder.log_gain)
    index = torch.log(scale / LOWEST_SCALE) / index_step(levels)
    model.hyper_decoder.quality_bias.copy_(index.clamp(0, levels - 1))
