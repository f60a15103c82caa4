"""What the stages need of the networks that they train: the stages depend on this, not on classes.

::

    image ─ front ─▶ f1 256@1/4 ─ re.transmit ─▶ f2 ─ transmit ─▶ f3 256@1/4 ─ tail ─▶ stages
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class Transmission(Protocol):
    """What arrives of a batch, and what it costs."""

    @property
    def features(self) -> Tensor:
        """Decoded features (N, 256, h, w)."""

    @property
    def noisy_bits(self) -> Tensor:
        """Differentiable bits of each image (N,)."""

    @property
    def bits(self) -> Tensor:
        """Bits of the symbols that are really sent, of each image (N,)."""


class RedundancyModel(Protocol):
    """`DicmRe`: backbone, RE encoder and decoder, and the rate of what lies between.

    ``transmit`` counts bits in float32, whatever precision surrounds it.
    """

    front: nn.Module
    tail: nn.Module
    encoder: nn.Module
    decoder: nn.Module

    def transmit(self, features: Tensor, quality: Tensor) -> Transmission:
        """Send features (N, 256, h, w) at qualities (N,) int64, 0-based."""


class CodecModel(Protocol):
    """`Dicm`: the codec around the features that RE has filtered."""

    @property
    def re(self) -> RedundancyModel:
        """The RE model whose features are coded."""

    def transmit(self, features: Tensor, quality: Tensor) -> Transmission:
        """Send features (N, 256, h, w) at qualities (N,) int64, 0-based."""


class Tail(Protocol):
    """The part of a backbone behind the split point."""

    def stages(self, features: Tensor) -> Sequence[Tensor]:
        """Map (N, 256, h, w) to the stages at 1/8, 1/16 (and 1/32)."""


class Backbone(nn.Module):
    """Front and tail of a ResNet-50 as one network."""

    def __init__(self, front: nn.Module, tail: nn.Module) -> None:
        super().__init__()
        self.front, self.tail = front, tail

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB 0..255 to the last stage (N, C, h, w)."""
        return stages_of(self.tail, self.front(image))[-1]


def stages_of(tail: nn.Module, features: Tensor) -> list[Tensor]:
    """Run a tail that is only known as a module."""
    return list(cast(Tail, tail).stages(features))


def as_module(model: object) -> nn.Module:
    """The same model, where its parameters are meant and not its protocol."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected an nn.Module, found {type(model).__name__}")
    return model


def pool(stage: Tensor) -> Tensor:
    """Average (N, C, h, w) over its cells, in float32."""
    return stage.float().mean((2, 3))


def freeze(*modules: nn.Module) -> None:
    """Stop training modules: no gradients to their weights, no new batch statistics."""
    for module in modules:
        module.requires_grad_(False).eval()


def lay_out(module: Network, device: torch.device) -> Network:
    """Move a network to a device, in the layout that convolutions like (see below)."""
    module.to(device)
    module.to(memory_format=torch.channels_last)
    return module


def channels_last(image: Tensor, device: torch.device) -> Tensor:
    """Lay a batch as convolutions like it: 1.7x faster on CPU and GPU alike."""
    return image.to(device).contiguous(memory_format=torch.channels_last)
