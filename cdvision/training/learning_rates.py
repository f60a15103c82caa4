"""Learning rates of the parts that every map codec has."""

from __future__ import annotations


def codec_rate(name: str, learning_rate: float) -> float:
    """Learning rate of a parameter of any ``LatentModel``, given that of most of them.

    Those that live on a larger scale leap, or rates would lag.
    """
    if name.startswith("hyper_decoder") and "bias" in name:
        return 40 * learning_rate
    leaping = ("log_gain", "log_rescale", "hyper_decoder.conv1.weight")
    if name.startswith("hyper_prior") or name.endswith(leaping):
        return 10 * learning_rate
    return learning_rate
