"""Eight qualities in one model: what a bit costs at each, or which rate each is steered to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cdvision.errors import CdvisionError
from cdvision.networks.scales import QUALITIES
from cdvision.training.learning_rates import factor_of, group_by_rate
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl

# The paper trains one model a rate and names one multiplier (0.08 for the codec). Here the quality
# is drawn for each photo; multipliers spread by 32, as the paper's sweep may (0.02 to 0.64).
CHEAPEST, DEAREST = 0.25, 8.0  # multiplier of quality 8 and of quality 1, over the paper's
STEERING = 0.01
RAMP_START, RAMP_END = 0.05, 0.25  # of a run
# Biases of scale indices run from 0 to 63, gains over decades: at the steps of weights, which run
# from -1 to 1, they would lag behind.
LEAPS = {
    "log_gain": 10.0, "log_rescale": 10.0, "hyper_prior": 10.0,
    "quality_bias": 40.0, "first_bias": 40.0, "second_bias": 40.0, "gather_bias": 40.0,
}  # fmt: skip
BYTES_PER_BPP = REFERENCE_PIXELS / 8


def spread(paper: float, qualities: int = QUALITIES) -> tuple[float, ...]:
    """Return multipliers of bits per pixel, quality 1 first, log-spaced around the paper's one.

    >>> [round(weight, 3) for weight in spread(0.08)]
    [0.64, 0.39, 0.238, 0.145, 0.088, 0.054, 0.033, 0.02]
    """
    ratio = CHEAPEST / DEAREST
    return tuple(paper * DEAREST * ratio ** (q / (qualities - 1)) for q in range(qualities))


def rate_term(weights: Sequence[float], targets: Sequence[float] | None = None) -> RateControl:
    """Return the module whose call gives the mean of ``weight[quality] * bits per pixel``.

    The multipliers of bits per pixel, quality 1 first, stay as they are without ``targets``, and
    change to steer the qualities to so many bits per pixel with them.
    """
    if targets is not None and len(targets) != len(weights):
        raise CdvisionError(
            f"rate targets: expected {len(weights)}, one a quality, found {len(targets)}"
        )
    # Without targets the expected rate is only where the running mean begins.
    expected = targets or [0.5] * len(weights)
    control = RateControl(
        tuple(bpp * BYTES_PER_BPP for bpp in expected), speed=STEERING if targets else 0.0
    )
    control.log_multiplier.copy_(torch.log(torch.tensor(weights) / BYTES_PER_BPP))
    return control


def ramp(done: float) -> float:
    """Return the weight of the rate term over a run: 0 at first, 1 from a quarter on."""
    # A decoder that has not learned to use the latent gains nothing from bits: a rate term from
    # the start removes them, and with them all that could be learned from.
    return min(1.0, max(0.0, (done - RAMP_START) / (RAMP_END - RAMP_START)))


def rate_groups(network: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Group parameters for an optimiser: those that live on a larger scale leap."""
    groups = group_by_rate(network, lambda name: learning_rate * factor_of(name, LEAPS))
    # They never decay: a table index is no weight, and nothing is better about a small one.
    return [
        group | ({"weight_decay": 0.0} if group["lr"] > learning_rate else {}) for group in groups
    ]


def bits_per_pixel(control: RateControl) -> list[float]:
    """Return the running mean bits per pixel at each quality."""
    return [rate / BYTES_PER_BPP for rate in control.rates()]
