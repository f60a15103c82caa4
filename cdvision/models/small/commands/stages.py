"""`cdvision train small` and `train receiver`: the map, then what a receiver runs of it."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.training_options import (
    FOLDER,
    OUT,
    PHOTOS,
    SPLIT_TABLE,
    RunOptions,
    photo_banks,
    train_stage,
)
from cdvision.models.small.training.options import MapOptions

WEIGHTS = click.option(
    "--initial-weights",
    required=True,
    type=EXISTING,
    help="Folder with nanodet_plus_m_416.safetensors and mobilenet_v2.safetensors.",
)


@click.command()
@PHOTOS
@WEIGHTS
@click.option("-o", "--out", type=Path, default=Path("runs/small"), show_default=True)
@SPLIT_TABLE
@click.option(
    "--start", type=FOLDER, help="Go on from a finished run, with the whole schedule anew."
)
@dataclass_options(options=MapOptions, run=RunOptions(minutes=150.0))
def small(
    photos: tuple[Path, ...],
    initial_weights: Path,
    out: Path,
    split_table: Path | None,
    start: Path | None,
    options: MapOptions,
    run: RunOptions,
) -> None:
    """Train the map of `small` on PHOTOS (folders or tars) without labels; it resumes.

    Its descriptor is computed afterwards: `cdvision train descriptor`.
    """
    from dataclasses import asdict

    from cdvision.models.small.training.recipe import Recipe
    from cdvision.models.small.training.run import train_small

    banks = photo_banks(photos, split_table, run.place)
    recipe = Recipe(minutes=run.minutes, batch=run.batch, seed=run.seed, **asdict(options))
    train_small(banks, initial_weights, out, recipe, run.place, start)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


@click.command()
@click.argument("run_folder", metavar="RUN", type=FOLDER)
@PHOTOS
@WEIGHTS
@SPLIT_TABLE
@OUT
@dataclass_options(run=RunOptions(minutes=10.0))
def receiver(
    run_folder: Path,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    run: RunOptions,
) -> None:
    """Tune taps and tails of a finished RUN of `small`; no byte of any stream changes."""
    from cdvision.models.small.training.receiver import ReceiverStage

    plan = run.plan()
    banks = photo_banks(photos, split_table, plan.device)
    train_stage(ReceiverStage(initial_weights, run_folder, banks, plan), out, plan)
