"""`cdvision train small` and `train receiver`: the map, then what a receiver runs of it."""

from __future__ import annotations

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
    help="Go on from a finished run or a package (folder or name), with the whole schedule anew.",
)
@click.option("--minutes", type=float, default=150.0, show_default=True, help="Length of the run.")
@click.option("--steps", type=click.IntRange(1), help="Length in steps instead.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Crops a step.")
@click.option("--learning-rate", type=float, help="Of what starts from nothing.")
@click.option("--solved-rate", type=float, help="Of what starts from a regression.")
@click.option("--pretrained-rate", type=float, help="Of the encoder's front and of the tails.")
@click.option("--seed", type=int, default=0, help="Of crops, qualities and new weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def small(
    photos: tuple[Path, ...],
    initial_weights: Path,
    out: Path,
    split_table: Path | None,
    start: str | None,
    minutes: float,
    steps: int | None,
    batch: int,
    seed: int,
    device: str,
    **rates: Any,
) -> None:
    """Train the map of `small` on PHOTOS (folders or tars) without labels; it resumes.

    Its descriptor is computed afterwards: `cdvision train descriptor`.
    """
    from cdvision.models.small.training.map_stage import MapStage
    from cdvision.models.small.training.options import MapOptions
    from cdvision.training.finished import open_finished
    from cdvision.training.plan import Plan
    from cdvision.training.stage_run import run_stage

    where = place(device)
    plan = Plan(minutes, batch, where, steps=steps, bf16=where.type == "cuda", seed=seed)
    banks = photo_banks(photos, split_table, where)
    options = MapOptions(**{k: v for k, v in rates.items() if v is not None})
    finished = None if start is None else open_finished(start)
    run_stage(MapStage(initial_weights, banks, plan, options, start=finished), out, plan)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


@click.command()
@click.argument("run")
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
    run: str,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    **options: Any,
) -> None:
    """Tune taps and tails of a RUN or package of `small`; no byte of any stream changes."""
    from cdvision.models.small.training.receiver import ReceiverStage
    from cdvision.training.finished import open_finished
    from cdvision.training.stage_run import run_stage

    plan, start = planned(options, smoke_batch=2), open_finished(run)
    banks = photo_banks(photos, split_table, plan.device)
    run_stage(ReceiverStage(initial_weights, start, banks, plan), out, plan)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")
