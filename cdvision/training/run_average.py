"""The mean of two finished runs of which one went on from the other.

Where both lie in one valley, the mean lies deeper than either: what the last steps of a run have
left in its weights as noise is averaged away. For `small`, 0.6 of a run and 0.4 of the one that it
began from had a lower loss at the upper qualities than both (TRAINING.md).

Source: Wortsman et al., "Model soups", ICML 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cdvision.errors import CdvisionError
from cdvision.training.finished import Finished


def average_runs(run: Finished, start: Finished, share: float) -> dict[str, Tensor]:
    """Return weights: ``share`` of a run's, the rest of those of what it went on from.

    What ``run`` alone has, a mask branch say, and what is no real number comes from ``run``.
    Weights are rounded once, to half precision.

    Raises:
        CdvisionError: they are of different networks.
    """
    ours, theirs = run.weights(), start.weights()
    shared = ours.keys() & theirs.keys()
    if not shared or any(ours[name].shape != theirs[name].shape for name in shared):
        raise CdvisionError(f"{start.folder}: expected the networks of {run.folder}, found others")
    return {name: _mean(value, theirs.get(name), share) for name, value in ours.items()}


def _mean(value: Tensor, other: Tensor | None, share: float) -> Tensor:
    if other is not None and value.is_floating_point():
        value = torch.lerp(other, value, share)
    return value.half() if value.is_floating_point() else value
