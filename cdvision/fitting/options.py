"""How a tap is fitted: what ``cdvision fit`` takes beside a network and photos; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from cdvision.training.checked_options import Count, Range
from cdvision.training.plan import PlanOptions

if TYPE_CHECKING:
    import torch

    from cdvision.training.plan import Plan

SAVE_MINUTES = 2.0  # between checkpoints: fits are short


@dataclass(frozen=True)
class FitOptions(PlanOptions):
    """How a tap is fitted; the defaults are meant to be left alone.

    Attributes:
        minutes: of training, at most, after the photos were encoded once.
        batch: crops a step.
        width: channels inside the tap.
        depth: residual blocks of the tap.
        size: long side of network inputs (default: the model's own, up to 416).
        photos: use so many at most.
        tune_tail: also tune the part of the network behind the split.
        memory: MB for examples (default: 40 % of free).
    """

    batch: Count = 16
    width: Annotated[int, Range(8)] = 512
    depth: Count = 3
    size: Count | None = None
    photos: Count = 4000
    tune_tail: bool = False
    memory: Count | None = None

    def plan(self) -> Plan:
        """Return the plan of the run."""
        return replace(super().plan(), save_minutes=SAVE_MINUTES)

    @staticmethod
    def fast_at_bf16(device: torch.device) -> bool:
        """Tell whether a device multiplies bfloat16 faster than float32."""
        import torch

        if device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported())
        # CPUs without tiles (AMX) emulate what convolutions need of bfloat16, and are slower at it.
        return bool(torch.cpu._is_amx_tile_supported())
