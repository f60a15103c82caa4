"""`cdvision train average`: the mean of a run and of the one that it went on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from cdvision.cli.training_options import FOLDER, OUT


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("start")
@click.option("--share", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="RUN's.")
@OUT
def average(run: Path, start: str, share: float, out: Path) -> None:
    """Average a finished RUN and START, the run or package that it went on from."""
    from cdvision.training.finished import open_finished
    from cdvision.training.run_average import average_runs
    from cdvision.training.run_folder import CHECKPOINT, RECORD, WEIGHTS
    from cdvision.training.tensor_files import write_tensors

    ours, theirs = open_finished(run), open_finished(start)
    weights = average_runs(ours, theirs, share)
    record = {**ours.record, "averaged": {"share": share, "with": theirs.record}}
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / WEIGHTS, weights)
    for file in run.glob(f"{CHECKPOINT}*"):  # metric and prices, for a run that goes on from here
        shutil.copyfile(file, out / file.name)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / WEIGHTS}")
