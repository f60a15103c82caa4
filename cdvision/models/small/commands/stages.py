"""`cdvision train small`, `receiver`, `descriptor` and `average`: all stages but the masks."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.task_options import FiniteRange
from cdvision.cli.training_options import (
    FOLDER,
    OUT,
    PHOTOS,
    SPLIT_TABLE,
    RunOptions,
    photo_banks,
    train_stage,
)
from cdvision.models.small.training.options import MapOptions, ReceiverOptions

WEIGHTS = click.option(
    "--initial-weights",
    required=True,
    type=EXISTING,
    help="Folder with mobilenet_v2.safetensors and that of the detector, such as "
    "nanodet_plus_m_416.safetensors or nanodet_plus_m_1.5x_416.safetensors.",
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
@dataclass_options(options=ReceiverOptions, run=RunOptions(minutes=10.0))
def receiver(
    finished: str,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    options: ReceiverOptions,
    run: RunOptions,
) -> None:
    """Tune the detector's tap and tail of a RUN or package of `small`; no stream changes.

    With --detector nanodet_plus_m_1.5x the receiver runs a wider detector than the sender's.
    """
    from cdvision.models.small.training.receiver import ReceiverStage
    from cdvision.training.finished import open_finished

    plan, start = replace(run.plan(), warmup_steps=options.warmup_steps), open_finished(finished)
    banks = photo_banks(photos, split_table, plan.device)
    train_stage(ReceiverStage(initial_weights, start, banks, plan, options), out, plan)


@click.command()
@click.argument("run")
@PHOTOS
@OUT
@SPLIT_TABLE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
def descriptor(
    run: str, photos: tuple[Path, ...], out: Path, split_table: Path | None, device: str, seed: int
) -> None:
    """Compute the descriptor of `small` beside the map of a RUN or package, which stays."""
    from cdvision.models.small.network import Small
    from cdvision.models.small.training.descriptor import TARGET_BYTES, compute_descriptor
    from cdvision.training.finished import open_finished
    from cdvision.training.plan import usable_device
    from cdvision.training.run_folder import RECORD, WEIGHTS, write_json, write_result

    start, where = open_finished(run), usable_device(device)
    start.require_network("small")
    model = Small.from_state(start.weights()).eval().requires_grad_(False)
    used = compute_descriptor(model, photo_banks(photos, split_table, where), where, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_result(model, out)
    facts = {"photos": used, "target_bytes": TARGET_BYTES, "seed": seed}
    write_json(out / RECORD, {**start.record, "descriptor": facts})
    click.echo(f"weights: {out / WEIGHTS}")


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("start")
@click.option("--share", type=FiniteRange(0, 1), default=0.6, show_default=True, help="RUN's.")
@OUT
def average(run: Path, start: str, share: float, out: Path) -> None:
    """Average a finished RUN and START, the run or package that it went on from."""
    from cdvision.training.finished import average_runs, open_finished
    from cdvision.training.run_folder import CHECKPOINT, RECORD, WEIGHTS, write_json
    from cdvision.training.tensor_files import write_tensors

    ours, theirs = open_finished(run), open_finished(start)
    weights = average_runs(ours, theirs, share)
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / WEIGHTS, weights)
    # The checkpoint holds metric and prices, for a run that goes on from here.
    for file in run.glob(f"{CHECKPOINT}*"):
        shutil.copyfile(file, out / file.name)
    averaged = {"share": share, "with": theirs.record}
    write_json(out / RECORD, {**ours.record, "averaged": averaged})
    click.echo(f"weights: {out / WEIGHTS}")
