"""Counts what each part of a network costs: parameters, and multiply-adds of a forward pass.

Convolutions, linear layers and matrix products count, wherever they are called; norms, activations,
additions and FFTs do not, as usual in the field.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cdvision.errors import ModelError
from cdvision.package.families import find_part

SENDER, RECEIVER = "sender", "receiver"
SIDE = 256  # default height and width of the network input, pixels


@dataclass(frozen=True)
class PartCost:
    """Size and work of one part of a network, for one image."""

    part: str
    sides: tuple[str, ...]  # who runs it: "sender", "receiver" or both
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class NetworkPart:
    """A part to be counted: a module, who runs it, and what it is given."""

    name: str
    sides: tuple[str, ...]
    module: nn.Module
    inputs: tuple[Any, ...]
    call: Callable[..., object] | None = None  # what the inputs go to, if not the module itself


def cost_table(network: str, height: int = SIDE, width: int = SIDE) -> list[PartCost]:
    """Count parameters and multiply-adds of every part of a network, in the order of data flow.

    Raises:
        ModelError: no such network, or a side that is no multiple of 64 pixels.

    Example:
        >>> front = cost_table("dicm")[0]
        >>> front.parameters, front.multiply_adds
        (225344, 1026555904)
    """
    if height < 64 or width < 64 or height % 64 or width % 64:
        raise ModelError(f"cost table: expected multiples of 64 pixels, found {height} x {width}")
    parts = find_part("costs", network)
    # This device computes shapes and no values: a pass takes neither memory nor time.
    with torch.device("meta"):
        return [
            PartCost(part.name, part.sides, *count(part.module, *part.inputs, call=part.call))
            for part in parts(height, width)
        ]


def count(
    module: nn.Module, *inputs: Any, call: Callable[..., object] | None = None
) -> tuple[int, int]:
    """Return the number of parameters of a module, and of multiply-adds for these inputs.

    The module is put in evaluation mode; ``call`` may be another method than its forward pass.
    """
    module.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        (call or module)(*inputs)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    # PyTorch counts the multiplication and the addition; the field counts the pair.
    return parameters, counter.get_total_flops() // 2


class Sizes(NamedTuple):
    """Makes the inputs of an image's size: maps of zeros, and a quality."""

    height: int
    width: int

    def map(self, channels: int, stride: int) -> Tensor:
        """Return a map of one image on the device of the context."""
        return torch.zeros(1, channels, -(-self.height // stride), -(-self.width // stride))

    def quality(self) -> Tensor:
        """Return the quality of one image."""
        return torch.zeros(1, dtype=torch.int64)
