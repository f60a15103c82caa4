"""A head start for the codecs of one map: linear codes of what networks look at.

`dicm-light` begins as principal components of 16x16 patches, in a metric that says how much the
stages behind depend on each direction of a patch; `dicm-re` as ``redundancy_start`` has it. Steps,
predictions and scales of the bottleneck follow from the latents (``bottleneck_start``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cdvision.models.dicm.light_codec import LightCodec
from cdvision.models.dicm.map_codec import FullCodec, MapCodec, enlarged
from cdvision.models.dicm.patch_transforms import PATCH
from cdvision.models.dicm.training.bottleneck_start import start_map
from cdvision.models.dicm.training.redundancy_start import start_networks
from cdvision.models.dicm.training.stage_errors import StageErrors
from cdvision.training.feature_metric import block_moments, blocks, metric_root
from cdvision.training.latent_start import bias_of, principal_components
from cdvision.training.protocols import stages_of

FLOOR = 0.1  # share of a plain error of pixels in the metric

Enlarged = Sequence[tuple[Tensor, int]]
"""Batches of native crops (N, 3, S, S) and the side to which each is enlarged."""


def start_codec(
    codec: MapCodec,
    errors: StageErrors,
    crops: Enlarged,
    more: Sequence[Tensor],
    targets: Sequence[float],
) -> None:
    """Set a codec's networks, and its bottleneck for targets in bytes of a reference photo.

    ``errors`` have measured their variances; front and tail have their final weights. ``more`` are
    batches of native crops, of which patches are taken.
    """
    if isinstance(codec, LightCodec):
        start_patches(codec, errors, crops, more)
    elif isinstance(codec, FullCodec):
        images = [enlarged(image, (size, size)) for image, size in crops]
        least = min(image.shape[3] for image in images)
        start_networks(codec, torch.cat([image[:, :, :least, :least] for image in images]))
    with torch.no_grad():
        maps = [codec.analyse(codec.seen(image, (size, size))) for image, size in crops]
    start_map(codec.bottleneck, maps, targets)


def start_patches(
    codec: LightCodec, errors: StageErrors, crops: Enlarged, more: Sequence[Tensor]
) -> None:
    """Set the linear paths of the light codec to the best linear code of patches."""
    _, moment = block_moments(_pairs(codec, errors, crops))
    patches = torch.cat([_units(codec, image) for image in more]).double()
    middle = patches.mean(0)
    covariance = (patches - middle).T @ (patches - middle) / len(patches)
    root = metric_root(covariance, moment, FLOOR).double()
    channels = codec.widths.filtered
    _, directions = principal_components(root @ covariance @ root, channels)
    forward = directions.T @ root  # (C, D): what a patch has of each direction
    back = torch.linalg.solve(root, directions)  # (D, C)
    with torch.no_grad():
        codec.analysis.linear.weight.copy_(forward.reshape(channels, 3, PATCH, PATCH))
        bias_of(codec.analysis.linear).copy_(-forward @ middle)
        codec.synthesis.linear.weight.copy_(back.T.reshape(channels, 3, PATCH, PATCH))
        # One bias for all places of a patch: the mean patch is next to flat.
        bias = middle.reshape(3, -1).mean(1)
        codec.synthesis.linear.bias.copy_(bias)  # type: ignore[union-attr]


def _pairs(
    codec: LightCodec, errors: StageErrors, crops: Enlarged
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield patches in units and gradients of random directions of all stages there."""
    for image, size in crops:
        units = codec.scale(image).requires_grad_(True)
        looked_at = enlarged(codec.scale.pixels(units), (size, size))
        features = codec.front(looked_at)
        total = torch.zeros((), device=image.device)
        for place, stage in enumerate([features, *stages_of(codec.tail, features)]):
            # The mean square of such a gradient is the error that noise in a patch makes.
            unit = errors.variance(place).sqrt()[:, None, None]
            total = total + (stage / unit * torch.randn_like(stage)).sum() / stage[0].numel() ** 0.5
        (gradient,) = torch.autograd.grad(total, units)
        yield blocks(units.detach(), PATCH), blocks(gradient, PATCH)


def _units(codec: LightCodec, image: Tensor) -> Tensor:
    return blocks(codec.scale(image), PATCH)
