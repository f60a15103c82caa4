"""What arrives of a batch in training, and what it costs: the sender's rounding, with gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cdvision.networks.latent_model import LatentModel
from cdvision.networks.quantisation import (
    add_uniform_noise,
    bits_per_image,
    gaussian_bits,
    round_straight_through,
)
from cdvision.networks.scales import HYPER_BOUND, scale_of


class Transmission(NamedTuple):
    """What arrives of a batch, and what it costs; bits are (N,)."""

    y: Tensor
    noisy_bits: Tensor  # differentiable
    bits: Tensor  # of the symbols that are really sent


def transmit(model: LatentModel, features: Tensor, quality: Tensor) -> Transmission:
    """Quantise as the encoder does, count the bits and dequantise.

    ``features`` are the map that the model's analysis reads, ``quality`` is (N,) int64, 0 to 7.
    """
    scaled = model.encoder.scaled_analysis(features, quality)
    z = model.encoder.hyper_latents(scaled)
    hyper = round_straight_through(z)
    # Rounding has no gradient. What arrives is rounded, its gradient passed straight through; bits
    # are counted with uniform noise, under which a Gaussian's code length is smooth.
    noisy = add_uniform_noise(z).clamp(-HYPER_BOUND - 0.5, HYPER_BOUND + 0.5)
    index = model.scale_index(hyper, quality, scaled)
    scale = scale_of(index)
    sent = index > 0  # the symbols that are skipped arrive as zero
    quantised = model.dequantiser.quantise(scaled, hyper, quality, sent, round_straight_through)
    # The noisy rate counts skipped symbols too: else none would ever be sent again.
    noisy_bits = gaussian_bits(add_uniform_noise(quantised.residual), scale)
    bits = gaussian_bits(quantised.symbols, scale) * sent
    return Transmission(
        y=model.dequantiser.rescale(quantised.scaled, quality),
        noisy_bits=bits_per_image(noisy_bits, model.hyper_prior.bits(noisy, quality)),
        bits=bits_per_image(bits, model.hyper_prior.bits(hyper, quality)),
    )
