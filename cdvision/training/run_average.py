"""The mean of two finished runs of which one went on from the other.

Where both lie in one valley, the mean lies deeper than either: what the last steps of a run have
left in its weights as noise is averaged away. For `small`, 0.6 of a run and 0.4 of the one that it
began from had a lower loss at the upper qualities than both (TRAINING.md).

Source: Wortsman et al., "Model soups", ICML 2022.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from cdvision.errors import CdvisionError
from cdvision.training.stage_run import WEIGHTS, read_record


def average_runs(run: Path, start: Path, share: float) -> dict[str, Tensor]:
    """Return weights: ``share`` of a run's, the rest of those of the run that it went on from.

    What ``run`` alone has, a mask branch say, and what is no real number comes from ``run``.

    Raises:
        CdvisionError: one is no finished run, or they are of different networks.
    """
    for folder in (run, start):
        read_record(folder)  # refuses what is no finished run
    ours, theirs = load_file(run / WEIGHTS), load_file(start / WEIGHTS)
    shared = ours.keys() & theirs.keys()
    if not shared or any(ours[name].shape != theirs[name].shape for name in shared):
        raise CdvisionError(f"{start}: expected a run of the networks of {run}, found others")
    return {name: _mean(value, theirs.get(name), share) for name, value in ours.items()}


def _mean(value: Tensor, other: Tensor | None, share: float) -> Tensor:
    if other is None or not value.is_floating_point():
        return value
    return torch.lerp(other.float(), value.float(), share).to(value.dtype).contiguous()
