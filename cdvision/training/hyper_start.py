"""Starts the hyper-latent of a model as something useful: the energy of each neighbourhood.

Left to itself it collapses: at first the integer network can make nothing of random numbers, the
rate term removes them, and no gradient reaches a layer whose input is zero. So the start is set
by hand: one channel of ``z`` a group of latent channels holds the mean log-magnitude around a
place, and the integer network turns it into a shift of the scale indices. Training goes on from
there, with every weight free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.networks.context import PHASES
from cdvision.networks.hyper import HyperAnalysis
from cdvision.networks.integer_hyper import IntegerHyperDecoder
from cdvision.networks.latent_model import HYPER_CELL, LatentModel
from cdvision.networks.quantisation import gaussian_bits
from cdvision.networks.scales import INDEX_STEP, LOWEST_SCALE, QUALITIES, SCALE_LEVELS
from cdvision.training.latent_start import bias_of

CROP = 3  # hyper-latents across the crops that are measured
GROUPS = 6  # of neighbouring latent channels, which fall in energy together
Z_STEPS = 12.0  # units of z for one unit of mean log-magnitude
ACTIVATION_STEPS = 4.0  # units of activation for one unit of z
MIDDLE_QUALITY = 4
MIDDLE = 60.0  # of the activations' range 0 to 127


@torch.no_grad()
def start_hyper(model: LatentModel, features: Sequence[Tensor]) -> None:
    """Set the hyper-analysis and the integer hyper-decoder of a model, in place.

    Its encoder up to the latents must be initialised already. Centres and slopes are measured on
    ``features``, batches of the map that its analysis reads.
    """
    crops = _crops(model, features)
    analysis, decoder = model.encoder.hyper_analysis, model.hyper_decoder
    groups = _group_matrix(model)
    _start_analysis(analysis, groups)
    scaled, z = _observe(model, crops)
    centre = z.mean((0, 2, 3))
    # Centred, ``z`` uses both halves of its range, and zero means the usual energy.
    bias_of(_convolutions(analysis)[-1])[:GROUPS] -= centre
    # A hyper-latent covers 4x4 places of the latents.
    around = (z - centre[:, None, None]).repeat_interleave(4, 2).repeat_interleave(4, 3)
    _start_decoder(decoder, _slopes(scaled, around, groups), groups)
    _start_indices(model, crops)


def _group_matrix(model: LatentModel) -> Tensor:
    """(GROUPS, channels): each row averages the magnitudes of one group of channels."""
    channels = model.encoder.log_gain.shape[1]
    # Latents stand in the order of their variance, so neighbours have energies that are alike.
    owner = torch.arange(channels) * GROUPS // channels
    members = (owner[None] == torch.arange(GROUPS)[:, None]).float()
    return (members / members.sum(1, keepdim=True)).to(model.encoder.log_gain.device)


def _start_analysis(analysis: HyperAnalysis, groups: Tensor) -> None:
    """Group means of log-magnitudes, averaged twice over 3x3 places, then scaled."""
    own = range(GROUPS)
    first, *middle, last = _convolutions(analysis)
    last.weight.mul_(0.1)  # what is not set by hand begins as zeros and finds its own use
    bias_of(last).zero_()
    for conv in (first, *middle, last):
        conv.weight[:GROUPS] = 0
        bias_of(conv)[:GROUPS] = 0
    # Magnitudes are the first half of what the analysis reads, signed ones the second.
    first.weight[:GROUPS, : groups.shape[1], 0, 0] = groups
    for conv in middle:
        conv.weight[own, own] = 1 / 9  # of 3x3 places
    last.weight[own, own] = Z_STEPS


def _convolutions(analysis: HyperAnalysis) -> list[nn.Conv2d]:
    return [module for module in analysis.modules() if isinstance(module, nn.Conv2d)]


def _start_decoder(decoder: IntegerHyperDecoder, slopes: Tensor, groups: Tensor) -> None:
    """Pass each group's ``z`` through both layers and add its slope to the group's indices."""
    for group in range(GROUPS):
        places = slice(4 * group, 4 * group + 4)  # the four places that a shuffle makes
        for conv, outputs, gain, bias in (
            (decoder.conv1, places, ACTIVATION_STEPS, MIDDLE),
            (decoder.conv2, slice(group, group + 1), 1.0, 0.0),
        ):
            conv.weight[outputs] = 0
            conv.weight[outputs, group, 1, 1] = gain
            conv.bias[outputs] = bias
    decoder.conv3.weight.zero_()
    # The gain before made a unit of ``z`` several of activation.
    per_channel = (groups > 0).float().T * (slopes / ACTIVATION_STEPS)[None]
    decoder.conv3.weight[:, :GROUPS, 0, 0] = per_channel.repeat_interleave(PHASES, 0)


def _start_indices(model: LatentModel, crops: Tensor) -> None:
    """Set the bias of every quality, channel and phase to the scale that residuals have there."""
    decoder = model.hyper_decoder
    for number in range(QUALITIES):
        quality = torch.full((len(crops),), number, device=crops.device)
        scaled = model.encoder.scaled_analysis(crops, quality)
        z = torch.round(model.encoder.hyper_latents(scaled))
        sent = torch.ones_like(scaled, dtype=torch.bool)
        residual = model.dequantiser.quantise(scaled, z, quality, sent).residual
        # The four phases of a 2x2 block are predicted differently well: each has its own scale.
        deviation = F.pixel_unshuffle(residual, 2).square().mean((0, 2, 3)).sqrt()
        index = torch.log(deviation / LOWEST_SCALE) / INDEX_STEP
        # What the network already adds on average must not be added twice.
        shift = decoder.conv3.weight[:, :, 0, 0] @ decoder.hidden(z).mean((0, 2, 3))
        decoder.quality_bias[number] = index.clamp(0, SCALE_LEVELS - 1) - shift


def _observe(model: LatentModel, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Return latents (N, C, 4h, 4w) and hyper-latents (N, GROUPS, h, w) at a middle quality."""
    quality = torch.full((len(crops),), MIDDLE_QUALITY, device=crops.device)
    scaled = model.encoder.scaled_analysis(crops, quality)
    z: Tensor = model.encoder.hyper_analysis(scaled)
    return scaled, z[:, :GROUPS]


def _crops(model: LatentModel, features: Sequence[Tensor]) -> Tensor:
    """Cut all batches to one size, of whole hyper-latents."""
    side = min(CROP * HYPER_CELL, *(batch.shape[3] for batch in features))
    side = side // HYPER_CELL * HYPER_CELL
    return torch.cat([batch[:, :, :side, :side] for batch in features])


def _slopes(scaled: Tensor, z: Tensor, groups: Tensor) -> Tensor:
    """Search, for each group, the indices per unit of ``z`` that code its latents best."""
    symbols, slopes = torch.round(scaled), []
    deviation = scaled.square().mean((0, 2, 3), keepdim=True).sqrt()
    # 0 to 4 indices a unit: the bits have no gradient in a rounded index, so they are tried out.
    candidates = [0.25 * step for step in range(17)]
    for group, members in enumerate(groups > 0):
        bits = [
            _bits(symbols[:, members], deviation[:, members], slope * z[:, group, None])
            for slope in candidates
        ]
        slopes.append(candidates[bits.index(min(bits))])
    return torch.tensor(slopes, device=scaled.device)


def _bits(symbols: Tensor, deviation: Tensor, shift: Tensor) -> float:
    """Bits of a group whose scales are shifted by some indices, its best common shift included."""
    scale = deviation * torch.exp(INDEX_STEP * shift)
    # Biases set the level later; only how scales differ from place to place is compared here.
    common = (scale.square().mean() / deviation.square().mean()).sqrt()
    return float(gaussian_bits(symbols, (scale / common).clamp_min(LOWEST_SCALE)).sum())
