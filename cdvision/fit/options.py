"""How a tap is fitted: what ``cdvision fit`` takes beside a network and photos."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cdvision.errors import CdvisionError
from cdvision.training.plan import Plan


@dataclass(frozen=True)
class FitOptions:
    """How a tap is fitted; the defaults are meant to be left alone.

    Attributes:
        minutes: of training, after the photos were encoded once.
        steps: length in steps instead.
        batch: crops a step.
        width: channels inside the tap.
        depth: residual blocks.
        size: long side of the network input; the model's own choice (up to 416) where None.
        photos: the most that are used.
        tune_tail: also train the network's tail.
        device: where.
        bf16: half precision in training; where the device is fast at it by default.
        memory: bytes for examples; a share of what is free where None.
        seed: of all that is drawn.
    """

    minutes: float = 15.0
    steps: int | None = None
    batch: int = 16
    width: int = 512
    depth: int = 3
    size: int | None = None
    photos: int = 4000
    tune_tail: bool = False
    device: str = "auto"
    bf16: bool | None = None
    memory: int | None = None
    seed: int = 0

    @property
    def place(self) -> torch.device:
        """The device."""
        chosen = self.device
        if chosen == "auto":
            chosen = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.zeros(1, device=chosen)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise CdvisionError(f"--device: {chosen!r} cannot be used ({reason})") from error
        return torch.device(chosen)

    def plan(self) -> Plan:
        """Return the plan of the run."""
        place = self.place
        bf16 = fast_at_bf16(place) if self.bf16 is None else self.bf16
        return Plan(
            self.minutes,
            self.batch,
            place,
            steps=self.steps,
            bf16=bf16,
            save_minutes=2.0,
            seed=self.seed,
        )


def fast_at_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported())
