"""How long, how much and where a stage trains, and how its learning rates rise and fall."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cdvision.errors import CdvisionError
from cdvision.training.checked_options import CheckedOptions, Count, Range, Weight

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


@dataclass(frozen=True)
class LengthOptions(CheckedOptions):
    """How long, how much and where a stage trains.

    Attributes:
        minutes: length of the run.
        steps: length in steps instead.
        batch: photos a step.
        device: where: auto, cpu or cuda.
        seed: of all that is drawn.
    """

    minutes: Weight = 15.0
    steps: Count | None = None
    batch: Annotated[int, Range(2)] = 8
    device: str = "auto"
    seed: int = 0

    @property
    def place(self) -> torch.device:
        """The device; raises CdvisionError where it cannot be used."""
        return usable_device(self.device)

    def plan(self) -> Plan:
        """Return the plan of the run."""
        return Plan(self.minutes, self.batch, self.place, steps=self.steps, seed=self.seed)


@dataclass(frozen=True)
class PlanOptions(LengthOptions):
    """How long, how much, where and how exactly a stage trains.

    Attributes:
        bf16: train in bfloat16 (default: where the device is fast at it).
    """

    bf16: bool | None = None

    def plan(self) -> Plan:
        """Return the plan of the run."""
        plan = super().plan()
        fast = self.fast_at_bf16(plan.device)
        return replace(plan, bf16=fast if self.bf16 is None else self.bf16)

    @staticmethod
    def fast_at_bf16(device: torch.device) -> bool:
        """Tell whether a device runs the stage's networks faster in bfloat16."""
        return device.type == "cuda"


def usable_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is a GPU where there is one.

    Raises:
        CdvisionError: it cannot be used here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CdvisionError(f"--device: {name!r} cannot be used ({reason})") from error
    return torch.device(name)
