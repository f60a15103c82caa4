"""A head start for the `hsc` codec: its short cuts begin as the best linear code of the codes.

Components that matter most in the metric of rows, patches of F by their principal components, one
step size a quality by the bytes that a layer may take, and tables as wide as what is left. On a CPU
an hour of training from random weights does not reach what this gives at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.hsc import BASE_BOUND, HscCodec
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.training.face_bank import FaceCodes
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.models.faces.training.style_start import ridge_regression
from cdvision.networks.scales import QUALITIES, index_of
from cdvision.training.latent_start import gain_for

PROBED, PATCHED = 256, 512  # faces that measure F's channels, and its patches
LEAST_SENSITIVITY = 0.1  # of a channel of F, over the mean of all
SIGMAS = 5.0  # of a component that its symbols reach
LOGISTIC = 0.55  # scale of a logistic over the standard deviation of one


@torch.no_grad()
def start_hsc(
    codec: HscCodec,
    metric: StyleMetric,
    generator: StyleGenerator,
    codes: FaceCodes,
    targets: Sequence[Sequence[float]],
) -> None:
    """Set normalisation, short cuts, gains and tables of a codec, in place.

    ``targets`` are the bytes of base and detail at every quality; ``generator`` tells how much each
    channel of F shows.
    """
    _start_rows(codec, metric, codes.rows, 8 * targets[0][-1])
    _start_feature(codec, generator, codes)
    quality = torch.arange(min(len(codes), PATCHED), device=codes.rows.device) % QUALITIES
    sample = codes.at(torch.arange(len(quality), device=quality.device))
    _set_gains(codec.base_log_gain, codec.base_log_rescale,
               codec.semantic.analyse(sample.rows), targets[0])  # fmt: skip
    _set_gains(codec.detail_log_gain, codec.detail_log_rescale,
               codec.feature.analyse(sample.feature), targets[1])  # fmt: skip
    _start_tables(codec, sample)


def _start_rows(codec: HscCodec, metric: StyleMetric, rows: Tensor, most_bits: float) -> None:
    network = codec.semantic
    center = rows.mean(0)
    network.center.copy_(center)
    # One spread for all values: how far each moves is what the metric weighs.
    network.spread.copy_((rows - center).square().mean().sqrt().view(1))
    analysis, synthesis = network.analysis, network.synthesis
    if not (isinstance(analysis, nn.Linear) and isinstance(synthesis, nn.Linear)):
        return  # convolutions have no linear short cut from end to end
    x = network.image(rows).flatten(1)
    # Principal components of what the metric sees: eigh gives the weakest first.
    told = x @ metric.root.T
    _, basis = torch.linalg.eigh(told.T @ told)
    basis = basis.flip(1)[:, : analysis.out_features]
    weight = torch.zeros_like(analysis.weight)
    weight[: basis.shape[1]] = (metric.root.T @ basis).T
    weight /= (x @ weight.T).square().mean().sqrt().clamp_min(1e-12)
    # A few components are a hundred times as strong as the others: coarser steps cost them nothing
    # that shows, and at the finest ones their symbols would be clipped.
    deviation = (x @ weight.T).square().mean(0).sqrt()
    gain = gain_for(deviation, most_bits)
    reach = SIGMAS * deviation * gain / BASE_BOUND
    weight *= gain / reach.clamp_min(1.0)[:, None]  # in steps of the highest quality
    analysis.weight.copy_(weight)
    analysis.bias.zero_()
    synthesis.weight.copy_(ridge_regression(x @ weight.T, x).T)
    synthesis.bias.zero_()


def _start_feature(codec: HscCodec, generator: StyleGenerator, codes: FaceCodes) -> None:
    network = codec.feature
    chosen = torch.arange(min(len(codes), PATCHED), device=codes.rows.device)
    sample = codes.at(chosen).feature
    center = sample.mean((0, 2, 3), keepdim=True)[0]
    spread = 1 / feature_sensitivity(generator, codes.at(chosen[:PROBED]))
    # Channels that show more get finer steps; all together keep unit spread.
    spread = spread * ((sample - center) / spread).square().mean().sqrt()
    network.center.copy_(center)
    network.spread.copy_(spread)
    # Principal components of 2 x 2 patches are the short cut that halves, its inverse doubles.
    patches = F.pixel_unshuffle((sample - center) / spread, 2)
    flat = patches.permute(0, 2, 3, 1).flatten(0, 2)
    _, basis = torch.linalg.eigh(flat.T @ flat)
    components = basis.flip(1)[:, : len(network.down.short.weight)].T  # (inner, 4 C)
    size = 1 / (flat @ components.T).square().mean().sqrt()
    down = components.view(len(components), -1, 2, 2) * size
    network.down.short.weight.zero_()
    network.down.short.weight[: len(down)].copy_(down)
    network.down.short.bias.zero_()  # type: ignore[union-attr]
    network.up.short.weight.zero_()
    # The transpose of what the way down does, as components are orthonormal.
    network.up.short.weight[:, : len(down), 0, 0].copy_((components / size).T)
    network.up.short.bias.zero_()  # type: ignore[union-attr]


def feature_sensitivity(generator: StyleGenerator, codes: FaceCodes, *, batch: int = 16) -> Tensor:
    """Return (C, 1, 1): how much a unit of each channel of F moves the picture, mean 1."""
    total = torch.zeros(codes.feature.shape[1], device=codes.rows.device)
    for rows, feature in zip(
        torch.split(codes.rows, batch), torch.split(codes.feature, batch), strict=True
    ):
        # The square of a random projection's gradient is the mean over pixels, in one pass back.
        with torch.enable_grad():
            at = feature.detach().requires_grad_(True)
            image = generator.synthesise(rows, at)
            (gradient,) = torch.autograd.grad((image * torch.randn_like(image)).sum(), at)
        total += gradient.square().sum((0, 2, 3))
    root = total.sqrt()
    return (root / root.mean().clamp_min(1e-12)).clamp_min(LEAST_SENSITIVITY).view(-1, 1, 1)


def _set_gains(gain: Tensor, rescale: Tensor, y: Tensor, targets: Sequence[float]) -> None:
    """Choose one gain a quality, by the bytes that symbols of these latents would take."""
    deviation = y.square().mean(0).sqrt().flatten()
    for quality, target in enumerate(targets):
        logarithm = math.log(gain_for(deviation, 8 * target))
        gain[quality], rescale[quality] = logarithm, -logarithm


def _start_tables(codec: HscCodec, sample: FaceCodes) -> None:
    """Set every table to the scale of its symbols before rounding, at the start's gains."""
    base, detail = codec.semantic.analyse(sample.rows), codec.feature.analyse(sample.feature)
    base_scale = base.square().mean((0, 2, 3)).sqrt() * torch.exp(codec.base_log_gain)
    # Rounding adds the variance of a uniform step, 1/12.
    spread = (base_scale.square() + 1 / 12).sqrt()[:, :, None]
    # Logistics spread over one deviation make about a Gaussian of that width.
    codec.prior.location.copy_(spread * torch.linspace(-1, 1, codec.prior.location.shape[2]))
    codec.prior.log_scale.copy_(torch.log(LOGISTIC * spread).expand_as(codec.prior.log_scale))
    detail_scale = detail.square().mean((0, 2, 3)).sqrt() * torch.exp(codec.detail_log_gain)
    codec.scales.start_indices(index_of(detail_scale).clamp_min(1.0))
