"""`cdvision train small` and `train receiver`: the map, then what a receiver runs of it."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.training_options import (
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
    "--start",
    help="Go on from a finished run or a package (folder or name), with the whole schedule anew.",
)
@dataclass_options(options=MapOptions, run=RunOptions(minutes=150.0))
def small(
    photos: tuple[Path, ...],
    initial_weights: Path,
    out: Path,
    split_table: Path | None,
    start: str | None,
    options: MapOptions,
    run: RunOptions,
) -> None:
    """Train the map of `small` on PHOTOS (folders or tars) without labels; it resumes.

    Its descriptor is computed afterwards: `cdvision train descriptor`.
    """
    from cdvision.models.small.training.map_stage import MapStage
    from cdvision.training.finished import open_finished

    plan, finished = run.plan(), None if start is None else open_finished(start)
    banks = photo_banks(photos, split_table, plan.device)
    train_stage(MapStage(initial_weights, banks, plan, options, start=finished), out, plan)


@click.command()
@click.argument("finished", metavar="RUN")
@PHOTOS
@WEIGHTS
@SPLIT_TABLE
@OUT
@dataclass_options(run=RunOptions(minutes=10.0))
def receiver(
    finished: str,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    run: RunOptions,
) -> None:
    """Tune taps and tails of a RUN or package of `small`; no byte of any stream changes."""
    from cdvision.models.small.training.receiver import ReceiverStage
    from cdvision.training.finished import open_finished

    plan, start = run.plan(), open_finished(finished)
    banks = photo_banks(photos, split_table, plan.device)
    train_stage(ReceiverStage(initial_weights, start, banks, plan), out, plan)
