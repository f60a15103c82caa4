"""What a user can choose where an encoder is trained for networks of their own; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cdvision.training.checked_options import CheckedOptions, Count, Range

Channels = Annotated[int, Range(8)]


@dataclass(frozen=True)
class EncoderOptions(CheckedOptions):
    """How an encoder is trained, beside its plan; the defaults are meant to be left alone.

    Attributes:
        bytes: of a photo of 416 x 312 at qualities 1 and 8 (default: 280 6600).
        photos: use so many at most.
        latents: channels of the latents.
        width: channels inside a tap.
    """

    bytes: Annotated[tuple[float, float], Range(32, rising=True)] | None = None
    photos: Count = 4000
    latents: Channels = 128
    width: Channels = 384

    @property
    def targets(self) -> tuple[float, ...]:
        """Bytes of the reference photo at each quality."""
        from cdvision.training.rate_control import TARGET_BYTES, targets_between

        return TARGET_BYTES if self.bytes is None else targets_between(*self.bytes)
