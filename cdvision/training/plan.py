"""How long, how much and where a stage trains, and how its learning rates rise and fall."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LEAST_RATE = 0.01  # share of a learning rate that is left at the end of a run


@dataclass
class Progress:
    """How far a run has come; all that a resumed run has to know beside the tensors."""

    step: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How long, how much and where a stage trains.

    Attributes:
        minutes: length of the run; learning rates fall as a cosine over it.
        steps: length in steps instead.
        batch: photos a step.
        device: where.
        bf16: run networks under bfloat16 autocast.
        warmup_steps: over which learning rates rise.
        save_minutes: between checkpoints.
        seed: of everything that is drawn.
    """

    minutes: float
    batch: int
    device: torch.device
    steps: int | None = None
    bf16: bool = False
    warmup_steps: int = 100
    save_minutes: float = 5.0
    seed: int = 0

    def done(self, progress: Progress) -> float:
        """Return the share of the run that is over, 0..1; a run without length is over."""
        if self.steps is not None:
            spent, length = float(progress.step), float(self.steps)
        else:
            spent, length = progress.seconds, 60 * self.minutes
        return 1.0 if spent >= length else spent / length

    def rate_factor(self, progress: Progress) -> float:
        """Return the share of every learning rate that the next step takes, 0..1."""
        # Half a cosine over the share of the run, not over steps: a slow machine's rates fall too.
        fall = 0.5 * (1 + math.cos(math.pi * self.done(progress)))
        # Adam's first moments are noise: rates rise in a line until they are not.
        rise = min(1.0, (progress.step + 1) / self.warmup_steps)
        return rise * (LEAST_RATE + (1 - LEAST_RATE) * fall)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which networks run."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
