"""`cdvision fit`: a tap, so that streams feed a network of the user's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cdvision.cli.command_line import needs_extra
from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.model_options import report_as_json
from cdvision.cli.training_options import SPLIT_TABLE, read_splits
from cdvision.fitting.options import FitOptions


def triple(value: str) -> tuple[float, ...]:
    """Read three numbers from ``0.485,0.456,0.406``; one number stands for all three."""
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers, found {value!r}") from error
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f"expected one number or three, found {value!r}")
    return numbers if len(numbers) == 3 else numbers * 3


@click.command()
@click.option("--model", default="small", show_default=True, help="Whose streams: name or folder.")
@click.option(
    "--network",
    required=True,
    metavar="NETWORK",
    help="torchvision:NAME, timm:NAME, FILE.py:FACTORY or FILE.onnx.",
)
@click.option(
    "--split", metavar="NAME", help="Module (or ONNX tensor) whose output the tap is to give."
)
@click.option("--weights", metavar="FILE|NAME", help="Of the network (default: the best known).")
@click.option(
    "--images",
    required=True,
    multiple=True,
    type=EXISTING,
    help="Folder or tar of photos, without labels; may be given several times.",
)
@SPLIT_TABLE
@click.option("-o", "--out", required=True, type=Path, help="Folder of the tap; names it too.")
@click.option("--name", help="Name of the tap (default: the folder's).")
@dataclass_options(options=FitOptions)
@click.option("--fp32", is_flag=True, help="The same as --no-bf16.")
@click.option("--mean", type=triple, metavar="R,G,B", help="Of the network's input.")
@click.option("--std", type=triple, metavar="R,G,B", help="Of the network's input.")
@click.option("--range", type=float, help="White in the network's input: 1 (default) or 255.")
@click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Of its channels (default: rgb).")
@report_as_json
def fit(
    model: str,
    network: str,
    split: str | None,
    weights: str | None,
    images: tuple[Path, ...],
    split_table: Path | None,
    out: Path,
    name: str | None,
    options: FitOptions,
    fp32: bool,
    as_json: bool,
    **pixels: Any,
) -> None:
    """Fit a tap, so that streams of a model feed a network of your own.

    The encoder and every stored stream stay as they are. Needs no labels. Stopped and started
    again with the same options, it goes on. The report stands in OUT/report.json.
    """
    with needs_extra("train", "fitting"):
        from cdvision.fitting.fitting import fit_tap
        from cdvision.fitting.sources import NetworkRequest
    try:
        report = fit_tap(
            NetworkRequest(network, split, weights, **pixels),
            images,
            out,
            model=model,
            name=name,
            splits=read_splits(split_table),
            options=replace(options, bf16=False) if fp32 else options,
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        click.echo(f"cdvision: stopped; the same command goes on from {out / 'run'}", err=True)
        raise
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))
