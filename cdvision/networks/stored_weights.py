"""How a package stores weights: in half precision, or in 8 bits a channel where nothing is lost.

Weights that were published in 8 bits lie on a grid of 255 steps a channel: a byte and the channel's
scale tell them. ::

    name        int8 (out, ...)         the steps
    name.scale  float32 (out, 1, ...)   what a step is worth
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ".scale"  # ends the name of a scale
STEPS = 127
LEAST = 20_000  # elements: below, a second tensor costs more than it saves
LOSS = 1e-3  # of a weight's norm; half precision alone has rounded weights on a grid by 3e-4


def store_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a package holds of a state dict, contiguous."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        steps, scale = on_grid(value)
        if _is_told_by(steps, scale, value):
            stored |= {name: steps.contiguous(), f"{name}{SCALE}": scale}
        else:
            stored[name] = value.half().contiguous()
    return stored


def _is_told_by(steps: Tensor, scale: Tensor, weight: Tensor) -> bool:
    """Tell whether a weight is large enough for bytes, and lies on their grid."""
    if weight.ndim < 2 or weight.numel() < LEAST:
        return False
    return bool((steps * scale - weight).norm() <= LOSS * weight.norm())


def restore_weights(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of stored tensors: float32, other integers as they are."""
    scales = {
        name: stored[f"{name}{SCALE}"]
        for name, value in stored.items()
        if value.dtype == torch.int8 and f"{name}{SCALE}" in stored
    }
    state = {}
    for name, value in stored.items():
        if name in scales:
            state[name] = value.float() * scales[name]
        elif name.removesuffix(SCALE) not in scales:
            state[name] = value.float() if value.is_floating_point() else value
    return state


def on_grid(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, ...) to int8 steps of each output channel; return steps and scales."""
    rest = tuple(range(1, weight.ndim))
    largest = weight.float().abs().amax(rest, keepdim=True) if rest else weight.float().abs()
    # A channel of zeros has no step; any will do.
    scale = torch.where(largest > 0, largest / STEPS, torch.ones_like(largest))
    return torch.round(weight.float() / scale).to(torch.int8), scale
