"""How pixels enter a user's network: the same numbers that it was trained with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cdvision.errors import CdvisionError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ORDERS = ("rgb", "bgr")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PixelFormat:
    """What a network expects of its input: ``(pixels * range / 255 - mean) / std``.

    Raises CdvisionError where a spread is not above 0, or the order is unknown.
    """

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
