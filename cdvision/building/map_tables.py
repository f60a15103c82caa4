"""The entropy model of a map: a trained network's probabilities frozen into integers."""

from __future__ import annotations

from cdvision.building.package_builder import (
    build_integer_network,
    prior_tables,
    symbol_tables,
)
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.networks.latent_model import LatentModel
from cdvision.networks.scales import QUALITIES


def build_coder(model: LatentModel) -> HyperpriorCoder:
    """Freeze a trained model's probabilities into integers; proves the network's sums exact."""
    return HyperpriorCoder(
        symbol_tables=symbol_tables(),
        hyper_tables=prior_tables(model.hyper_prior),
        network=build_integer_network(model.hyper_decoder),
        qualities=QUALITIES,
        channels=model.dequantiser.log_rescale.shape[1],
    )
