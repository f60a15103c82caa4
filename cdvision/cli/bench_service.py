"""`cdvision bench service`: load a running service, and send it what it must refuse."""

from __future__ import annotations

import json
from pathlib import Path

import click

import cdvision
from cdvision.cli.command_line import BAD_INPUT
from cdvision.errors import CdvisionError


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Of the service.")
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, show_default=True)
@click.option(
    "--clients", type=click.IntRange(1), default=16, show_default=True, help="Connections at once."
)
@click.option(
    "--malformed", type=click.IntRange(0), default=10_000, show_default=True, help="Bad bodies."
)
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of photos (.jpg) whose streams are sent.",
)
@click.option("--task", default="detect", show_default=True, help="What is asked.")
@click.option("--api-key", envvar="CDVISION_API_KEY", help="The service's key, where it has one.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def service(photos: Path, as_json: bool, url: str, **how: object) -> None:
    """Load a running service (`cdvision serve`): rate, p50, p99, errors, and its refusals.

    Clients ask again as soon as they are answered, so the rate is the highest that is sustained.
    """
    from cdvision.bench.service import bench_service

    streams = [cdvision.encode(path) for path in sorted(photos.glob("*.jpg"))]
    if not streams:
        raise CdvisionError(f"{photos} holds no .jpg photo")
    report = bench_service(url, streams, **how)  # type: ignore[arg-type]
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))
    if not report.ok:
        raise click.exceptions.Exit(BAD_INPUT)
