"""`cdvision fit`: a tap, so that streams feed a network of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cdvision.cli.training_options import read_splits
from cdvision.errors import CdvisionError

_EXISTING = click.Path(exists=True, path_type=Path)
_PIXELS = ("mean", "std", "range", "order")
_MEGABYTE = 2**20


def triple(value: str) -> tuple[float, ...]:
    """Read three numbers from ``0.485,0.456,0.406``; one number stands for all three."""
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"expected numbers, found {value!r}") from error
    if len(numbers) not in (1, 3):
        raise click.BadParameter(f"expected one number or three, found {value!r}")
    return numbers if len(numbers) == 3 else numbers * 3


def _triple(_: Any, __: Any, value: str | None) -> tuple[float, ...] | None:
    return None if value is None else triple(value)


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
    type=_EXISTING,
    help="Folder or tar of photos, without labels; may be given several times.",
)
@click.option("-o", "--out", required=True, type=Path, help="Folder of the tap; names it too.")
@click.option("--name", help="Name of the tap (default: the folder's).")
@click.option(
    "--tune-tail", is_flag=True, help="Also tune the part of the network behind the split."
)
@click.option("--minutes", type=float, help="Of training, at most (default: 15).")
@click.option("--steps", type=click.IntRange(1), help="Length in steps instead.")
@click.option("--mean", callback=_triple, metavar="R,G,B", help="Of the network's input.")
@click.option("--std", callback=_triple, metavar="R,G,B", help="Of the network's input.")
@click.option("--range", type=float, help="White in the network's input: 1 (default) or 255.")
@click.option("--order", type=click.Choice(["rgb", "bgr"]), help="Of its channels (default: rgb).")
@click.option("--size", type=int, help="Long side of network inputs (default: the model's own).")
@click.option("--photos", type=click.IntRange(1), help="Use so many at most (default: 4000).")
@click.option(
    "--split-table",
    type=_EXISTING,
    help="csv with columns file and split: files named there count where split is train.",
)
@click.option("--batch", type=click.IntRange(1), help="Crops a step (default: 16).")
@click.option("--width", type=click.IntRange(8), help="Channels inside the tap (default: 512).")
@click.option("--memory", type=click.IntRange(1), help="MB for examples (default: 40 % of free).")
@click.option("--device", help="auto (default), cpu or cuda.")
@click.option(
    "--bf16/--fp32", default=None, help="Precision (default: what the device is fast at)."
)
@click.option("--seed", type=int, help="Of all that is drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def fit(
    model: str,
    network: str,
    split: str | None,
    weights: str | None,
    images: tuple[Path, ...],
    out: Path,
    name: str | None,
    split_table: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a tap, so that streams of a model feed a network of your own.

    The encoder and every stored stream stay as they are. Needs no labels. Stopped and started
    again with the same options, it goes on. The report stands in OUT/report.json.
    """
    try:
        from cdvision.fit.fitting import fit_tap
        from cdvision.fit.options import FitOptions
        from cdvision.fit.sources import NetworkRequest
    except ImportError as error:
        raise CdvisionError(
            f"fitting needs {error.name}: install it with `pip install 'cdvision[train]'`"
        ) from error
    pixels = {name: options.pop(name) for name in _PIXELS}
    if options["memory"] is not None:
        options["memory"] *= _MEGABYTE
    chosen = FitOptions(**{k: v for k, v in options.items() if v is not None})
    request = NetworkRequest(network, split, weights, **pixels)
    try:
        report = fit_tap(
            request,
            images,
            out,
            model=model,
            name=name,
            splits=read_splits(split_table),
            options=chosen,
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        click.echo(f"cdvision: stopped; the same command goes on from {out / 'run'}", err=True)
        raise
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))
