"""Learning rates of a network's parts: groups of parameters, and rules that map codecs share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def group_by_rate(network: nn.Module, rate: Callable[[str], float]) -> list[dict[str, Any]]:
    """Group the parameters that train by their learning rate, which ``rate`` tells by name."""
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            rates.setdefault(rate(name), []).append(parameter)
    return [{"params": parameters, "lr": value} for value, parameters in rates.items()]


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """Return the factor of the first part that a parameter's name holds, 1 where there is none."""
    return next((factor for part, factor in factors.items() if part in name), 1.0)


def codec_rate(name: str, learning_rate: float) -> float:
    """Learning rate of a parameter of any ``LatentModel``, given that of most of them.

    Those that live on a larger scale leap, or rates would lag.
    """
    # Biases of scale indices run from 0 to 63, weights from -1 to 1: equal steps would take ages.
    if name.startswith("hyper_decoder") and "bias" in name:
        return 40 * learning_rate
    leaping = ("log_gain", "log_rescale", "hyper_decoder.conv1.weight")
    if name.startswith("hyper_prior") or name.endswith(leaping):
        return 10 * learning_rate
    return learning_rate
