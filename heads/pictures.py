"""Pictures that a tail has drawn are the answer as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from cdvision.heads.registry import Asked


def answer_picture(asked: Asked) -> NDArray[Any]:
    """Return the picture (H, W, 3) uint8 RGB of the network input's size."""
    return asked.dense["image"]
