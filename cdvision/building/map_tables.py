"""The entropy model of a map: a trained network's probabilities frozen into integers."""

from __future__ import annotations

import torch

from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.tables import (
    SymbolTables,
    gaussian_tables,
    log_scale_table,
    tables_from_probabilities,
)
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.integer_hyper import IntegerHyperDecoder, runtime_layer
from cdvision.networks.latent_model import LatentModel
from cdvision.networks.scales import (
    HIGHEST_SCALE,
    HYPER_BOUND,
    LOWEST_SCALE,
    QUALITIES,
    SCALE_LEVELS,
)


def build_coder(model: LatentModel) -> HyperpriorCoder:
    """Freeze a trained model's probabilities into integers; proves the network's sums exact."""
    return HyperpriorCoder(
        symbol_tables=symbol_tables(),
        hyper_tables=prior_tables(model.hyper_prior),
        network=build_integer_network(model.hyper_decoder),
        qualities=QUALITIES,
        channels=model.dequantiser.log_rescale.shape[1],
    )


def symbol_tables() -> SymbolTables:
    """Return the Gaussian tables of every scale, the same in all models."""
    return gaussian_tables(log_scale_table(SCALE_LEVELS, LOWEST_SCALE, HIGHEST_SCALE))


@torch.no_grad()
def prior_tables(prior: FactorisedPrior) -> SymbolTables:
    """Freeze a factorised prior: one table a quality and channel."""
    probabilities = prior.probabilities().double().numpy()
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    # The outermost bins hold the tails, so only float32's rounding keeps a row from summing to 1.
    rows = rows / rows.sum(1, keepdims=True)
    return tables_from_probabilities(rows, -prior.bound, escape=False)


@torch.no_grad()
def build_integer_network(decoder: IntegerHyperDecoder) -> IntegerNetwork:
    """Turn the training twin into the runtime's network; raises ModelError without the proof."""
    layers = (
        runtime_layer(decoder.conv1, upsample=2),
        runtime_layer(decoder.conv2),
        runtime_layer(decoder.conv3, decoder.quality_bias, upsample=2),
    )
    return IntegerNetwork(layers, bound=HYPER_BOUND)
