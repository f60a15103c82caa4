"""A head start for RE: its convolutions begin as principal components, stage by stage.

From random weights RE needs hundreds of thousands of steps, which a GPU has and a CPU has not. So
its convolutions are set one after the other: each encoder convolution takes the principal
components of 2x2 blocks of what comes before it, each decoder convolution the regression back.
Conv2Former blocks begin as the identity by their layer scales, and all is trained on from there.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.dicm.bottleneck import HyperpriorBottleneck
from cdvision.models.dicm.codec import Redundancy
from cdvision.models.dicm.conv2former import ChannelNorm, LayerChain
from cdvision.models.dicm.map_codec import FullCodec
from cdvision.models.dicm.training.bottleneck_start import start_map
from cdvision.networks.scales import QUALITIES, SCALE_LEVELS, index_of
from cdvision.training.protocols import stages_of
from cdvision.training.rate_control import TARGET_BYTES

RIDGE = 1e-3  # of the mean variance, in regressions
FLOOR = 0.05  # share of a plain identity in the metric
GAINS = 0.2, 2.0  # steps a unit of y1 at quality 1 and 8
CHUNK = 16  # crops that run through the front at once


def start_redundancy(model: Redundancy, images: Tensor) -> None:
    """Set the convolutions of RE, and the steps and scales of its bottleneck, by some photos.

    They are (N, 3, S, S) RGB 0..255, S a multiple of 32; front and tail have their final weights.
    """
    y = start_networks(model, images)
    if isinstance(model, FullCodec):
        # Targets of the paper's stages are fixed multipliers: these are a usual range of bytes.
        start_map(model.bottleneck, [y], TARGET_BYTES)
        return
    with torch.no_grad():
        _start_bottleneck(model.bottleneck, _cells(y).std(0))


def start_networks(model: Redundancy, images: Tensor) -> Tensor:
    """Set the convolutions of RE alone, and return y1 (N, C, h, w) of the photos."""
    metric = _metric(model, images[:CHUNK])
    with torch.no_grad():
        features = torch.cat([model.front(part) for part in torch.split(images, CHUNK)])
        maps = _start_encoder(model.encoder, features, metric)
        y = maps[-1]
        _start_decoder(model.decoder, features, maps)
    return y


def _start_bottleneck(bottleneck: HyperpriorBottleneck, deviations: Tensor) -> None:
    # Steps spread evenly in the logarithm; every channel gets the scale that it has then.
    low, high = (math.log(gain) for gain in GAINS)
    gains = torch.linspace(low, high, QUALITIES).to(deviations)[:, None]
    bottleneck.log_gain.copy_(gains.expand_as(bottleneck.log_gain))
    bottleneck.log_rescale.copy_(-bottleneck.log_gain)
    index = index_of(torch.exp(gains) * deviations).clamp(0, SCALE_LEVELS - 1)
    bottleneck.hyper_decoder.quality_bias.copy_(index.repeat_interleave(4, dim=1))


def _metric(model: Redundancy, images: Tensor) -> Tensor:
    """Return (C, C), by which directions of features count as much as the tail depends on them."""
    with torch.no_grad():
        features = model.front(images)
    features.requires_grad_(True)
    deepest = stages_of(model.tail, features)[-1]
    # One backward pass of a random direction behind tells, in the mean, the gradients of all.
    probe = torch.randn_like(deepest) / deepest.detach().std((0, 2, 3), keepdim=True)
    (gradient,) = torch.autograd.grad((deepest * probe).sum(), features)
    moment = _second_moment(_cells(gradient.double()))
    # The root of their second moment; the floor keeps what this tail ignores from being lost.
    values, vectors = torch.linalg.eigh(moment / moment.diagonal().mean())
    root: Tensor = vectors * (values.clamp_min(0) + FLOOR).sqrt() @ vectors.T
    return root.float()


def _start_encoder(encoder: LayerChain, features: Tensor, metric: Tensor) -> list[Tensor]:
    """Set one convolution after the other; returns every one's output, finest first."""
    first, *rest = encoder.layers
    projection = cast(nn.Conv2d, first)
    mean = features.mean((0, 2, 3))
    # Components of what has gone through the metric; the metric itself joins the weights.
    weight, spread = _components((_cells(features) - mean) @ metric, projection.out_channels)
    _set(projection, (weight @ metric)[:, :, None, None], -(weight @ metric) @ mean)
    maps = [projection(features)]
    for position in range(0, len(rest), 3):  # blocks, convolution, norm
        blocks, conv, norm = rest[position : position + 3]
        x = blocks(maps[-1])
        spread = _reduce(cast(nn.Conv2d, conv), x, spread)
        maps.append(norm(conv(x)))
    final = cast(ChannelNorm, norm)
    # The last norm puts the variances back: what varies more is worth more bits.
    final.weight.copy_(spread / spread.mean())
    maps[-1] = maps[-1] * final.weight[:, None, None]
    return maps


def _reduce(conv: nn.Conv2d, x: Tensor, spread: Tensor) -> Tensor:
    """Let a 3x3 convolution of stride 2 take components of 2x2 blocks; returns their deviations.

    ``spread`` are the deviations that the unit-variance channels of ``x`` had before scaling.
    """
    scale = spread.repeat_interleave(4)  # blocks list a channel's four places together
    samples = _cells(F.pixel_unshuffle(x, 2))
    mean = samples.mean(0)
    weight, deviations = _components((samples - mean) * scale, conv.out_channels)
    weight = weight * scale
    # With a padding of 1 the block of an output lies under the kernel's lower right 2x2.
    kernel = torch.zeros_like(conv.weight)
    kernel[:, :, 1:, 1:] = weight.view(conv.out_channels, -1, 2, 2)
    _set(conv, kernel, -weight @ mean)
    return deviations


def _start_decoder(decoder: LayerChain, features: Tensor, maps: list[Tensor]) -> None:
    """Let every deconvolution predict what the encoder had there, from what really arrives."""
    *stages, last = decoder.layers
    x = maps.pop()
    for position in range(0, len(stages), 3):  # deconvolution, norm, blocks
        deconv, norm, blocks = stages[position : position + 3]
        _expand(cast(nn.ConvTranspose2d, deconv), x, maps.pop())
        x = blocks(norm(deconv(x)))
    weight, bias = _regression(_cells(x), _cells(features))
    _set(cast(nn.Conv2d, last), weight[:, :, None, None], bias)


def _expand(deconv: nn.ConvTranspose2d, x: Tensor, target: Tensor) -> None:
    """Let a 5x5 deconvolution of stride 2 predict the 2x2 block under each of its inputs."""
    weight, bias = _regression(_cells(x), _cells(F.pixel_unshuffle(target, 2)))
    # With a padding of 2 an input's own block lies under the taps 2 and 3.
    kernel = torch.zeros_like(deconv.weight)
    kernel[:, :, 2:4, 2:4] = weight.T.reshape(x.shape[1], -1, 2, 2)
    # The four places of a block share one bias: the mean of theirs.
    _set(deconv, kernel, bias.view(-1, 4).mean(1))


def _components(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return principal components (count, D), scaled, and their deviations (count,)."""
    values, vectors = torch.linalg.eigh(_second_moment(samples.double()))
    # eigh lists the weakest first.
    deviations = values.flip(0)[:count].clamp_min(1e-12).sqrt()
    # To unit variance, so that the norm behind divides by nearly the same number everywhere.
    weight = vectors.flip(1)[:, :count].T / deviations[:, None]
    return weight.float(), deviations.float()


def _regression(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights (Dy, Dx) and bias (Dy,) of the ridge regression of ``y`` on ``x`` (n, Dx)."""
    x, y = x.double(), y.double()
    centre, middle = x.mean(0), y.mean(0)
    covariance = _second_moment(x - centre)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(len(centre), dtype=x.dtype).to(x)
    cross = (x - centre).T @ (y - middle) / len(x)
    weight = torch.linalg.solve(covariance + ridge, cross).T
    return weight.float(), (middle - weight @ centre).float()


def _second_moment(samples: Tensor) -> Tensor:
    return samples.T @ samples / len(samples)


def _cells(x: Tensor) -> Tensor:
    """Cells of a map (N, C, H, W) as samples (n, C)."""
    return x.movedim(1, -1).flatten(0, 2)


def _set(conv: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight.copy_(weight)
    cast(Tensor, conv.bias).copy_(bias)
