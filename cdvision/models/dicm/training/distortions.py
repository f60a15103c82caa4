"""What the features lose between sender and receiver: the distortions of stages 1 to 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.training.feature_metric import unexplained_variance
from cdvision.training.protocols import stages_of

L1_WEIGHT = 128.0  # stage 1
CODEC_WEIGHTS = (2048.0, 384.0, 256.0, 192.0)  # stage 3: features, then layers 2, 3, 4


def mean_absolute_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Return mean |f1 - f2| in float32, whatever the precision of the networks."""
    return F.l1_loss(found.float(), wanted.float())


def feature_errors(
    tail: nn.Module, found: Tensor, wanted: Tensor, stages: Sequence[Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the unexplained variance of features and of every stage behind them, by name.

    Args:
        tail: frozen or not; gradients flow through it to ``found``.
        found: decoded features (N, 256, h, w).
        wanted: features (N, 256, h, w) of the uncompressed network.
        stages: the uncompressed network's stages, where somebody has computed them already.
    """
    if stages is None:
        with torch.no_grad():
            stages = stages_of(tail, wanted)
    # In units of each channel's variance, a stage counts the same at any scale of its activations;
    # answers depend on the later ones, and not on the split point alone.
    errors = {"features": unexplained_variance(found, wanted)}
    for number, (mine, theirs) in enumerate(zip(stages_of(tail, found), stages, strict=True), 2):
        errors[f"stage{number}"] = unexplained_variance(mine, theirs)
    return errors


def codec_distortion(tail: nn.Module, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Return the squared errors of stage 3: 2048 MSE(f2, f3) + Σ λi MSE(Fi(f2), Fi(f3))."""
    with torch.no_grad():
        target = stages_of(tail, wanted)
    first, *rest = CODEC_WEIGHTS
    terms = {"features": first * F.mse_loss(found.float(), wanted.float())}
    # The pre-activation variant's tail ends at stage 3: it has a term less.
    for number, (mine, theirs) in enumerate(zip(stages_of(tail, found), target, strict=True), 2):
        error = F.mse_loss(mine.float(), theirs.float())
        terms[f"stage{number}"] = rest[number - 2] * error
    return terms
