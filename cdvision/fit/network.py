"""A user's network, split in two: what a tap imitates, and what reads the tap's features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.fit.cut import NamedOutputs, cut_network, named_outputs
from cdvision.fit.pixels import PixelFormat, PixelNormaliser
from cdvision.package.card import FeatureSpec


class SplitNetwork(ABC):
    """Images to features to outputs.

    Attributes:
        facts: where it came from, for the card: ``source``, ``split``, ``weights``.
        pixels: what it expects of its input.
        device: where it runs.
    """

    facts: dict[str, Any]
    pixels: PixelFormat
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to float32 features at the split point."""

    @abstractmethod
    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to named float32 outputs."""

    def feature_spec(self, multiple: int, device: torch.device) -> FeatureSpec:
        """Return channels and stride of the features, from a run on two empty pictures.

        Args:
            multiple: sides of network inputs are multiples of it.
            device: where the network is.

        Raises:
            CdvisionError: the features are no map of a stride that divides every input.
        """
        # Two sizes, for a network with an input of fixed size must not pass.
        strides = set()
        for height, width in ((4 * multiple, 4 * multiple), (4 * multiple, 6 * multiple)):
            found = self._tried(torch.full((1, 3, height, width), 114.0, device=device))
            if found.ndim != 4 or min(found.shape[2:]) < 1:
                raise CdvisionError(
                    f"features at {self.facts['split']!r} have shape {tuple(found.shape)}: "
                    "expected a map (N, C, h, w); split earlier"
                )
            strides |= {height / found.shape[2], width / found.shape[3]}
        stride = strides.pop()
        if strides or stride != int(stride) or multiple % int(stride):
            raise CdvisionError(
                f"features at {self.facts['split']!r} are {found.shape[2]} x {found.shape[3]} for "
                f"an input of {height} x {width}: expected a stride that divides {multiple}"
            )
        return FeatureSpec(int(found.shape[1]), int(stride))

    def _tried(self, image: Tensor) -> Tensor:
        """Run features and outputs on a picture, to know at once that its size suits both."""
        try:
            found = self.features(image)
            self.outputs(found)
        except CdvisionError:
            raise
        except Exception as error:  # whatever the network's own code raises
            reason = " ".join(str(error).split())[:160]
            raise CdvisionError(
                f"{self.facts['source']} cannot run on an input of {image.shape[2]} x "
                f"{image.shape[3]} ({reason}): streams need a network that takes any size"
            ) from error
        return found


class TorchNetwork(SplitNetwork):
    """A PyTorch network.

    Args:
        front: image to features.
        tail: features to outputs.
        facts: for the card.
        pixels: of its input.
        device: where it runs.
    """

    def __init__(
        self,
        front: nn.Module,
        tail: nn.Module,
        facts: Mapping[str, Any],
        pixels: PixelFormat,
        device: torch.device,
    ) -> None:
        self.facts, self.pixels = dict(facts), pixels
        self.front = nn.Sequential(PixelNormaliser(pixels), front)
        self.tail = tail
        for part in (self.front, self.tail):
            part.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            part.eval().requires_grad_(False)
        self.device = device

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to float32 features at the split point."""
        image = image.contiguous(memory_format=torch.channels_last)
        with self._precision():
            found = self.front(image)
        if not isinstance(found, Tensor):
            raise CdvisionError(
                f"what leaves {self.facts['split']!r} is a {type(found).__name__}: expected one "
                "tensor; split elsewhere"
            )
        return found.float()

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to named float32 outputs; gradients pass."""
        with self._precision():
            found = named_outputs(self.tail(features))
        return {name: value.float() for name, value in found.items()}

    @property
    def named_tail(self) -> nn.Module:
        """The tail as a module that returns named outputs."""
        return self.tail if isinstance(self.tail, NamedOutputs) else NamedOutputs(self.tail)

    def _precision(self) -> AbstractContextManager[Any]:
        """Run in half precision on GPUs, where it is twice as fast and as good."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()


def split_torch(
    network: nn.Module | tuple[nn.Module, nn.Module],
    split: str | None,
    facts: Mapping[str, Any],
    pixels: PixelFormat,
    device: torch.device,
) -> TorchNetwork:
    """Split a network at a named module; a pair of modules is split already.

    Raises:
        CdvisionError: it cannot be cut there.
    """
    if isinstance(network, tuple):
        front, tail = network
        return TorchNetwork(
            front, tail, {**facts, "split": split or "front | tail"}, pixels, device
        )
    if split is None:
        raise CdvisionError("--split: expected the name of a module, such as layer2, found none")
    front, tail = cut_network(network.eval(), split)
    return TorchNetwork(front, tail, {**facts, "split": split}, pixels, device)
