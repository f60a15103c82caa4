"""How long, how much and where a stage trains: what a user says of a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cdvision.errors import CdvisionError
from cdvision.training.checked_options import CheckedOptions, Count, Range, Weight
from cdvision.training.plan import Plan

if TYPE_CHECKING:
    import torch


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
