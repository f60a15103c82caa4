"""`cdvision train small` and `train receiver`: the map, then what a receiver runs of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cdvision.cli.training_options import photo_banks, place, plan_options, planned


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--initial-weights",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder with nanodet_plus_m_416.safetensors and mobilenet_v2.safetensors.",
)
@click.option("-o", "--out", type=Path, default=Path("runs/small"), show_default=True)
@click.option(
    "--split-table",
    type=click.Path(exists=True, path_type=Path),
    help="csv with columns file and split: a source named there gives its `train` rows only.",
)
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Go on from a finished run, with the whole schedule anew.",
)
@click.option("--minutes", type=float, help="Length of the run (default: the recipe's).")
@click.option("--batch", type=click.IntRange(1), help="Crops a step (default: the recipe's).")
@click.option("--learning-rate", type=float, help="Of what starts from nothing.")
@click.option("--solved-rate", type=float, help="Of what starts from a regression.")
@click.option("--pretrained-rate", type=float, help="Of the encoder's front and of the tails.")
@click.option("--seed", type=int, help="Of crops, qualities and new weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def small(
    photos: tuple[Path, ...],
    initial_weights: Path,
    out: Path,
    split_table: Path | None,
    start: Path | None,
    device: str,
    **changes: Any,
) -> None:
    """Train the map of `small` on PHOTOS (folders or tars) without labels; it resumes.

    Its descriptor is computed afterwards: `cdvision train descriptor`.
    """
    from cdvision.models.small.training.recipe import Recipe
    from cdvision.models.small.training.run import train_small

    where = place(device)
    recipe = replace(Recipe(), **{k: v for k, v in changes.items() if v is not None})
    banks = photo_banks(photos, split_table, where)
    train_small(banks, initial_weights, out, recipe, where, start)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--initial-weights",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="As for the run.",
)
@click.option("--split-table", type=click.Path(exists=True, path_type=Path), help="As for the run.")
@plan_options(minutes=10.0, batch=8)
def receiver(
    run: Path,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    **options: Any,
) -> None:
    """Tune taps and tails of a finished RUN of `small`; no byte of any stream changes."""
    from cdvision.models.small.training.receiver import ReceiverStage
    from cdvision.training.stage_run import run_stage

    plan = planned(options, smoke_batch=2)
    banks = photo_banks(photos, split_table, plan.device)
    run_stage(ReceiverStage(initial_weights, run, banks, plan), out, plan)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")
