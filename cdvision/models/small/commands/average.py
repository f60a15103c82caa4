"""`cdvision train average`: the mean of a run and of the one that it went on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

from cdvision.cli.training_options import FOLDER, OUT


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("start", type=FOLDER)
@click.option("--share", type=click.FloatRange(0, 1), default=0.6, show_default=True, help="RUN's.")
@OUT
def average(run: Path, start: Path, share: float, out: Path) -> None:
    """Average the weights of a finished RUN and of START, the one that it went on from."""
    from safetensors.torch import save_file

    from cdvision.training.run_average import average_runs
    from cdvision.training.stage_run import CHECKPOINT, RECORD, WEIGHTS, read_record

    weights = average_runs(run, start, share)
    record = {**read_record(run), "averaged": {"share": share, "with": read_record(start)}}
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / WEIGHTS)
    if (run / CHECKPOINT).is_file():  # metric and multipliers, for a run that goes on from here
        shutil.copyfile(run / CHECKPOINT, out / CHECKPOINT)
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / WEIGHTS}")
