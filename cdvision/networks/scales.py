"""The scales that every model codes with: numbers that networks, training and packages share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

QUALITIES = 8
SCALE_LEVELS = 64
LOWEST_SCALE, HIGHEST_SCALE = 0.11, 64.0
INDEX_STEP = math.log(HIGHEST_SCALE / LOWEST_SCALE) / (SCALE_LEVELS - 1)
HYPER_BOUND = 15  # hyper-latents lie in [-15, 15]


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation that a scale index stands for (same shape)."""
    return LOWEST_SCALE * torch.exp(index * INDEX_STEP)


def index_of(scale: Tensor) -> Tensor:
    """Real-valued scale index of standard deviations above 0 (same shape)."""
    return torch.log(scale / LOWEST_SCALE) / INDEX_STEP
