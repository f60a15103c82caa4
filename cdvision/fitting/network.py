"""A user's network, split in two: what a tap imitates, and what reads the tap's features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError
from cdvision.package.card import FeatureSpec

if TYPE_CHECKING:
    import onnx

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDERS = ("rgb", "bgr")
Triple = tuple[float, float, float]
OUTPUT = "output"  # name of a network's only output
GREY = 114.0  # of the pictures that a network is tried on


@dataclass(frozen=True)
class PixelFormat:
    """What a network expects of its input: ``(pixels * range / 255 - mean) / std``."""

    mean: Triple = IMAGENET_MEAN  # of each channel, in the order of `order`
    std: Triple = IMAGENET_STD
    range: float = 1.0  # value of white before the mean is taken off: 1 or 255, say
    order: str = "rgb"  # of the channels, or "bgr"

    def __post_init__(self) -> None:
        if min(self.std) <= 0 or self.range <= 0:
            raise CdvisionError(
                f"pixels: expected std and range above 0, found {self.std} and {self.range}"
            )
        if self.order not in ORDERS:
            raise CdvisionError(f"pixels: expected one of {ORDERS} as order, found {self.order!r}")

    def __str__(self) -> str:
        mean, std = ((",".join(f"{v:g}" for v in values)) for values in (self.mean, self.std))
        return f"{self.order.upper()} in 0..{self.range:g}, mean {mean}, std {std}"


class PixelNormaliser(nn.Module):
    """RGB values in 0..255 to a network's input."""

    scale: Tensor
    shift: Tensor

    def __init__(self, pixels: PixelFormat) -> None:
        super().__init__()
        self._reversed = pixels.order == "bgr"
        std = torch.tensor(pixels.std).view(1, 3, 1, 1)
        # (x * range / 255 - mean) / std as one product and one sum, which every engine fuses.
        self.register_buffer("scale", pixels.range / 255 / std)
        self.register_buffer("shift", -torch.tensor(pixels.mean).view(1, 3, 1, 1) / std)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) float RGB in 0..255 to the same shape."""
        return (image.flip(1) if self._reversed else image) * self.scale + self.shift


class SplitNetwork(ABC):
    """Images to features to outputs."""

    facts: dict[str, Any]  # for the card: `source`, `split` and `weights`
    pixels: PixelFormat  # of its input
    tail: nn.Module | onnx.ModelProto  # as it is exported; a module returns named outputs
    passes_gradients: bool  # from outputs to features
    device: torch.device  # where it runs

    @abstractmethod
    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to float32 features at the split point."""

    @abstractmethod
    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to named float32 outputs."""

    def describe(self, features: FeatureSpec) -> str:
        """Say in one line what the network is, and what was taken for its input."""
        return (
            f"{self.facts['source']} at {self.facts['split']}, {features.channels} channels at "
            f"1/{features.stride}; input {self.pixels}; weights {self.facts['weights']}"
        )

    def feature_spec(self, multiple: int) -> FeatureSpec:
        """Return channels and stride of the features, from a run on two empty pictures.

        Raises CdvisionError where they are no map whose stride divides ``multiple``, of which the
        sides of all network inputs are multiples.
        """
        strides = set()
        # Two sizes, for a network with an input of fixed size must not pass.
        for height, width in ((4 * multiple, 4 * multiple), (4 * multiple, 6 * multiple)):
            try:
                found = self.features(torch.full((1, 3, height, width), GREY, device=self.device))
                self.outputs(found)  # to know at once that the size suits both parts
            except CdvisionError:
                raise
            except Exception as error:  # whatever the network's own code raises
                reason = " ".join(str(error).split())[:160]
                raise CdvisionError(
                    f"{self.facts['source']} cannot run on an input of {height} x {width} "
                    f"({reason}): streams need a network that takes any size"
                ) from error
            if found.ndim != 4 or min(found.shape[2:]) < 1:
                raise CdvisionError(
                    f"features at {self.facts['split']!r} have shape {tuple(found.shape)}: "
                    "expected a map (N, C, h, w); split earlier"
                )
            strides |= {height / found.shape[2], width / found.shape[3]}
        stride = strides.pop()
        # One stride for both axes and sizes, whole, and none that some input would cut a cell of.
        if strides or stride != int(stride) or multiple % int(stride):
            raise CdvisionError(
                f"features at {self.facts['split']!r} are {found.shape[2]} x {found.shape[3]} for "
                f"an input of {height} x {width}: expected a stride that divides {multiple}"
            )
        return FeatureSpec(int(found.shape[1]), int(stride))


class TorchNetwork(SplitNetwork):
    """A PyTorch network: ``front`` maps the image to features, ``tail`` features to outputs."""

    tail: nn.Module
    passes_gradients = True

    def __init__(
        self,
        front: nn.Module,
        tail: nn.Module,
        facts: Mapping[str, Any],
        pixels: PixelFormat,
        device: torch.device,
    ) -> None:
        self.facts, self.pixels, self.device = dict(facts), pixels, device
        self.front = nn.Sequential(PixelNormaliser(pixels), front)
        self.tail = NamedOutputs(tail)
        for part in (self.front, self.tail):
            # Channels last: convolutions on CPUs and tensor cores read them without a copy.
            part.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            part.eval().requires_grad_(False)

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
            found: dict[str, Tensor] = self.tail(features)
        return {name: value.float() for name, value in found.items()}

    def _precision(self) -> AbstractContextManager[Any]:
        """Run in half precision on GPUs, where it is twice as fast and as good."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


class NamedOutputs(nn.Module):
    """Gives a network's outputs names, whatever it returns: a tensor, several, or a dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to ``output``, to ``output0`` and on, or to what the keys of a dict say."""
        value: Any = self.network(features)
        if isinstance(value, Mapping):
            named = {str(name): part for name, part in value.items()}
        elif isinstance(value, (tuple, list)):
            named = {f"{OUTPUT}{place}": part for place, part in enumerate(value)}
        else:
            named = {OUTPUT: value}
        for name, part in named.items():
            if not isinstance(part, Tensor):
                raise CdvisionError(
                    f"the network's {name} is a {type(part).__name__}: expected tensors, alone, "
                    "in a tuple or in a dict"
                )
        return named
