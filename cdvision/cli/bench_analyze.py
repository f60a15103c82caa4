"""`cdvision bench analyze`: many streams at once, beside a loop over one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cdvision.cli.model_options import ChosenModel, model_options, quality_option


@click.command()
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photos to encode (default: one drawn picture).",
)
@quality_option
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="Streams.")
@click.option("--rounds", type=click.IntRange(2), default=7, show_default=True)
@click.option("--try-workers", multiple=True, type=click.IntRange(1), help="Also time these.")
@click.option("--try-batch", multiple=True, type=click.IntRange(1), help="Also time these.")
@click.option(
    "--memory", type=click.IntRange(0), default=0, help="Pass so many streams; watch memory."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@model_options
def analyze(
    photos: Path | None,
    quality: int | None,
    try_workers: tuple[int, ...],
    try_batch: tuple[int, ...],
    as_json: bool,
    count: int,
    rounds: int,
    memory: int,
    **how: Any,
) -> None:
    """Time `analyze` beside a plain loop over `detect`: paired rounds, medians."""
    from cdvision.bench.analysis import bench_analyze
    from cdvision.bench.speed import read_photos

    model = ChosenModel(**how).loaded
    streams = [model.encode(photo, quality) for photo in read_photos(photos)]
    report = bench_analyze(
        model,
        streams,
        count=count,
        rounds=rounds,
        settings=[{}, *_settings(try_workers, try_batch)],
        memory=memory,
    )
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))


def _settings(workers: tuple[int, ...], batches: tuple[int, ...]) -> Iterator[dict[str, int]]:
    """Yield every combination of what was named; what was not named keeps its default."""
    for number in workers or (None,):
        for size in batches or (None,):
            options = {"workers": number, "batch_size": size}
            chosen = {name: value for name, value in options.items() if value is not None}
            if chosen:
                yield chosen
