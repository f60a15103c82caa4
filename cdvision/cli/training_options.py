"""How long, how much and where a command trains: the options that all stages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.errors import CdvisionError
from cdvision.training.plan import PlanOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cdvision.training.photo_bank import PhotoBank
    from cdvision.training.plan import Plan
    from cdvision.training.stage import Stage

SMOKE_STEPS = 2
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT = click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the run."
)
PHOTOS = click.argument("photos", nargs=-1, required=True, type=EXISTING)
SPLIT_TABLE = click.option(
    "--split-table",
    type=EXISTING,
    help="csv with columns file and split: files named there count where split is train.",
)


@dataclass(frozen=True)
class RunOptions(PlanOptions):
    """How long, how much and where a command trains.

    Attributes:
        smoke: tiny everything, two steps: does it run?
    """

    smoke: bool = False

    smoke_batch: ClassVar[int] = 2

    def plan(self) -> Plan:
        """Return the plan, and seed what new weights are drawn from."""
        import torch

        plan = super().plan()
        torch.manual_seed(self.seed)
        return replace(plan, steps=SMOKE_STEPS, batch=self.smoke_batch) if self.smoke else plan


def train_stage(
    stage: Stage, out: Path, plan: Plan, facts: dict[str, Any] | None = None
) -> nn.Module:
    """Train or resume a stage, say where its result lies, and return it."""
    from cdvision.training.stage_run import run_stage

    trained = run_stage(stage, out, plan, facts)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")
    return trained


def read_splits(table: Path | None) -> dict[str, str]:
    """Read the split of each file from a csv with columns file and split."""
    if table is None:
        return {}
    import csv

    with open(table, newline="", encoding="utf-8") as file:
        return {row["file"]: row["split"] for row in csv.DictReader(file)}


def photo_groups(
    sources: Sequence[Path], split_table: Path | None, device: torch.device
) -> list[list[torch.Tensor]]:
    """Decode photos, each source a group; raises CdvisionError where one has none to train on."""
    from cdvision.training.photo_bank import read_photos

    splits, groups = read_splits(split_table), []
    for source in sources:
        photos = read_photos(source, device=device, splits=splits)
        if not photos:
            raise CdvisionError(f"{source} holds no photo to train on")
        groups.append(list(photos))
    return groups


def photo_banks(
    sources: Sequence[Path], split_table: Path | None, device: torch.device
) -> list[PhotoBank]:
    """Decode photos, each source a bank; raises CdvisionError where one has none to train on."""
    from cdvision.training.photo_bank import PhotoBank, plan_for

    groups = photo_groups(sources, split_table, device)
    return [PhotoBank(photos, plan_for(photos)) for photos in groups]
