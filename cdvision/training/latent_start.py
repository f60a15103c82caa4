"""A head start for latents: gains by the bytes that they should take, prediction by regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cdvision.networks.latent_model import LATENT_STRIDE, LatentModel
from cdvision.networks.quantisation import gaussian_bits
from cdvision.networks.scales import QUALITIES
from cdvision.training.rate_control import REFERENCE_PIXELS

WIDE = 15.0  # a deviation at which 121 symbols still hold a Gaussian


def principal_components(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return variances (count,) and directions (D, count) of a covariance (D, D), best first."""
    variance, basis = torch.linalg.eigh(covariance)
    return variance.flip(0)[:count], basis.flip(1)[:, :count]


def bias_of(conv: nn.Conv2d) -> Tensor:
    """Return the biases (out,) of a convolution; raises ValueError where it has none."""
    if conv.bias is None:
        raise ValueError("expected a convolution with a bias")
    return conv.bias


def set_linear(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Fill a 1x1 convolution with weights (out, in) and biases (out,)."""
    conv.weight.copy_(weight[:, :, None, None])
    bias_of(conv).copy_(bias)


def start_gains(model: LatentModel, variance: Tensor, targets: Sequence[float]) -> None:
    """Choose one gain a quality, by the bytes that its symbols would take.

    ``variance`` (C,) is of each latent, ``targets`` are bytes of a reference photo.
    """
    # A target is of the whole map, a gain is found for the bits of one cell.
    cells = REFERENCE_PIXELS / LATENT_STRIDE**2
    gains = [gain_for(variance.sqrt(), 8 * target / cells) for target in targets]
    log_gain = torch.log(torch.tensor(gains)).to(variance)[:, None].expand(-1, len(variance))
    model.encoder.log_gain.copy_(log_gain)
    model.dequantiser.log_rescale.copy_(-log_gain)


def gain_for(deviation: Tensor, bits: float) -> float:
    """Bisect for the gain at which rounded Gaussians of these deviations take ``bits`` in all."""
    # In the logarithm: thirty halvings of six decades leave less than float32 tells apart.
    low, high = 1e-3, 1e3
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _entropy(deviation * middle) < bits else (low, middle)
    return low


def _entropy(deviation: Tensor) -> float:
    """Bits of one rounded value of each deviation, added up."""
    symbols = torch.arange(-60.0, 61.0, device=deviation.device)[:, None]
    bits = gaussian_bits(symbols.expand(-1, len(deviation)), deviation.clamp(0.05, WIDE))
    # Beyond the sum's reach a Gaussian needs one bit more for every doubling.
    wider = torch.log2(deviation / WIDE).clamp_min(0)  # one bit for every doubling
    return float((torch.exp2(-bits) * bits).sum() + wider.sum())


@torch.no_grad()
def start_prediction(model: LatentModel, features: Sequence[Tensor]) -> None:
    """Set the strength of the spatial prediction by regression on rounded neighbours.

    The encoder up to the latents must be initialised already; ``features`` are batches of the map
    that its analysis reads.
    """
    for quality in range(QUALITIES):
        found = [_rounded_neighbours(model, batch, quality) for batch in features]
        for part, module in enumerate(
            (model.dequantiser.prediction.direct, model.dequantiser.prediction.diagonal)
        ):
            product = sum((latents * means[part]).sum((0, 2, 3)) for latents, means in found)
            energy = sum(means[part].square().sum((0, 2, 3)) for _, means in found)
            # The 1 pulls channels whose symbols are nearly all zero towards no prediction.
            module.strength[quality] = product / (energy + 1.0)


def _rounded_neighbours(
    model: LatentModel, features: Tensor, quality: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Scaled latents inside the border, and the means of their direct and diagonal neighbours."""
    levels = torch.full((len(features),), quality, device=features.device)
    scaled = model.encoder.scaled_analysis(features, levels)
    rounded = torch.round(scaled)
    before, inside, behind = slice(None, -2), slice(1, -1), slice(2, None)
    direct = [(before, inside), (behind, inside), (inside, before), (inside, behind)]
    diagonal = [(before, before), (before, behind), (behind, before), (behind, behind)]
    means = [
        sum((rounded[:, :, rows, columns] for rows, columns in group), torch.zeros(())) / 4
        for group in (direct, diagonal)
    ]
    return scaled[:, :, inside, inside], (means[0], means[1])
