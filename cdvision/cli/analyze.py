"""`cdvision analyze`: many streams, from files and tables into one file or JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cdvision.cli.command_line import BAD_INPUT, told_if_full
from cdvision.cli.model_options import ChosenModel, count_option, model_options
from cdvision.cli.printer import with_progress
from cdvision.cli.task_options import TaskCommand, batched_options, task_choice
from cdvision.tasks import tasks as all_tasks

STDOUT = "-"


def _from_table() -> list[click.Option]:
    asked = [task for task in all_tasks().values() if task.in_tables]
    what = "What to ask; may be given several times (default: detect)."
    return [task_choice(asked, what), *batched_options(asked)]


@click.command(cls=TaskCommand, from_table=_from_table)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--to",
    "target",
    default=STDOUT,
    metavar="FILE",
    help="Results: .jsonl, .csv, .parquet or .json (COCO); default: JSON lines on stdout.",
)
@count_option("--batch-size", None, "Streams of one engine run.")
@count_option("--workers", None, "Batches that run at once.")
@click.option("--as-completed", is_flag=True, help="Write results as they come, not in order.")
@click.option("--column", default="stream", show_default=True, help="Of a Parquet source.")
@click.option("--key", default="key", show_default=True, help="Column of names, likewise.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@model_options
def analyze(
    sources: tuple[str, ...],
    target: str,
    tasks: tuple[str, ...],
    column: str,
    key: str,
    force: bool,
    as_completed: bool,
    chosen: ChosenModel,
    **given: Any,
) -> None:
    """Answer for many streams at once, and write one file of results.

    A SOURCE is a folder (of streams, tars, Parquet files), a glob, a WebDataset .tar, a .parquet
    file with a binary column, or a stream. A bad stream is a record with an error, and the exit
    status is then 2. What was written before something fails is kept as NAME.partial.SUFFIX.
    """
    from cdvision.pipelines.sinks import Sink
    from cdvision.pipelines.sources import read_sources
    from cdvision.pipelines.text_sinks import json_line

    # What was not given is left to the defaults of analyze.
    options = {name: value for name, value in given.items() if value is not None}
    streams = read_sources(sources, column=column, key=key)
    tasks = tasks or ("detect",)
    results = chosen.loaded.analyze(streams, tasks, ordered=not as_completed, **options)
    if target == STDOUT:
        failed = 0
        for result in results:
            failed += result.error is not None
            with told_if_full():
                click.echo(json_line(result, ascii_only=True))
    else:
        if any(Path(source).resolve() == Path(target).resolve() for source in sources):
            raise click.UsageError(f"--to {target}: the results would replace what is read")
        with Sink(Path(target), force=force) as sink:
            for result in with_progress(results, "stream"):
                sink.write(result)
        failed = sink.written.errors
        click.echo(f"{sink.written.results:,} results, {failed:,} errors: {target}", err=True)
    if failed:
        raise click.exceptions.Exit(BAD_INPUT)
