"""How long, how much and where a stage trains: the options that all stages share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    import torch

    from cdvision.training.photo_bank import PhotoBank
    from cdvision.training.stage_run import Plan

Command = TypeVar("Command", bound=Callable[..., Any])
SMOKE_STEPS = 2


def plan_options(*, minutes: float, batch: int) -> Callable[[Command], Command]:
    """Add the options of a plan; the numbers are a stage's defaults."""

    def decorate(function: Command) -> Command:
        for option in (
            click.option("-o", "--out", type=Path, required=True, help="Folder of the run."),
            click.option("--minutes", type=float, default=minutes, show_default=True),
            click.option("--steps", type=click.IntRange(1), help="Length in steps instead."),
            click.option("--batch", type=click.IntRange(2), default=batch, show_default=True),
            click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda."),
            click.option(
                "--bf16/--no-bf16",
                default=None,
                help="bfloat16 autocast (default: where the device is fast at it).",
            ),
            click.option("--seed", type=int, default=0, show_default=True),
            click.option("--smoke", is_flag=True, help="Tiny everything, two steps: does it run?"),
        ):
            function = option(function)
        return function

    return decorate


def planned(
    options: dict[str, Any],
    *,
    smoke_batch: int,
    fast_at_bf16: Callable[[torch.device], bool] = lambda device: device.type == "cuda",
) -> Plan:
    """Return the plan of the options; seeds what new weights are drawn from.

    Args:
        options: those of ``plan_options``.
        smoke_batch: photos a step where only two steps are taken.
        fast_at_bf16: whether a device runs the stage's networks in bfloat16 by default.
    """
    import torch

    from cdvision.training.stage_run import Plan

    device = place(options["device"])
    torch.manual_seed(options["seed"])
    plan = Plan(
        minutes=options["minutes"],
        steps=options["steps"],
        batch=options["batch"],
        device=device,
        bf16=fast_at_bf16(device) if options["bf16"] is None else options["bf16"],
        seed=options["seed"],
    )
    return replace(plan, steps=SMOKE_STEPS, batch=smoke_batch) if options["smoke"] else plan


def place(device: str) -> torch.device:
    """Return the device of a name; ``auto`` is a GPU where there is one."""
    import torch

    return torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    )


def read_splits(table: Path | None) -> dict[str, str]:
    """Read the split of each file from a csv with columns file and split."""
    if table is None:
        return {}
    import csv

    with open(table, newline="", encoding="utf-8") as file:
        return {row["file"]: row["split"] for row in csv.DictReader(file)}


def photo_banks(
    sources: Sequence[Path], split_table: Path | None, device: torch.device
) -> list[PhotoBank]:
    """Decode photos, each source a group; raises CdvisionError where one has none to train on."""
    from cdvision.training.photo_bank import PhotoBank, plan_for, read_photos

    splits = read_splits(split_table)
    banks = []
    for source in sources:
        photos = read_photos(source, device=device, splits=splits)
        if not photos:
            raise CdvisionError(f"{source} holds no photo to train on")
        banks.append(PhotoBank(photos, plan_for(photos)))
    return banks
