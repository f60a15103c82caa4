"""Sets steps, predictions and scales of a map's bottleneck by latents of some photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cdvision.networks.latent_model import LatentModel
from cdvision.training.hyper_start import start_hyper
from cdvision.training.latent_start import start_gains, start_prediction


@torch.no_grad()
def start_map(bottleneck: LatentModel, maps: Sequence[Tensor], targets: Sequence[float]) -> None:
    """Start a bottleneck from maps ``y`` (N, C, h, w), whose channels fall in variance.

    ``targets`` are bytes of a reference photo at each quality.
    """
    cells = torch.cat([y.movedim(1, -1).flatten(0, 2) for y in maps])
    start_gains(bottleneck, cells.var(0), targets)
    start_prediction(bottleneck, maps)
    start_hyper(bottleneck, maps)
