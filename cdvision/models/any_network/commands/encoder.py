"""`cdvision train encoder`: an encoder of one's own, for any set of networks."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.fit import triple
from cdvision.cli.training_options import OUT, SPLIT_TABLE, RunOptions, read_splits
from cdvision.errors import CdvisionError
from cdvision.fit.options import fast_at_bf16
from cdvision.models.any_network.training.options import EncoderOptions
from cdvision.training.checked_options import Weight

if TYPE_CHECKING:
    import torch

    from cdvision.fit.sources import NetworkRequest

SMOKE_PHOTOS = 16
_READ_AS = {"mean": triple, "std": triple, "range": float, "order": str, "weights": str}


@dataclass(frozen=True)
class EncoderRun(RunOptions):
    """How long, how much and where an encoder trains."""

    minutes: Weight = 60.0

    @staticmethod
    def fast_at_bf16(device: torch.device) -> bool:
        """Tell whether a device multiplies bfloat16 faster than float32."""
        return fast_at_bf16(device)


@click.command()
@click.argument("sources", metavar="PHOTOS...", nargs=-1, required=True, type=EXISTING)
@click.option(
    "--serve",
    multiple=True,
    metavar="NAME=NETWORK@SPLIT",
    help="A network to serve, as `cdvision fit` takes it: mine=torchvision:resnet50@layer2, "
    "FILE.py:FACTORY@MODULE, timm:NAME@MODULE, FILE.onnx@TENSOR. Once for each network.",
)
@OUT
@click.option(
    "--start", help="Go on from a finished run or a package (folder or name) of these networks."
)
@click.option(
    "--weights", multiple=True, metavar="NAME=FILE", help="Of a network (default: the best known)."
)
@click.option("--mean", multiple=True, metavar="NAME=R,G,B", help="Of a network's input.")
@click.option("--std", multiple=True, metavar="NAME=R,G,B", help="Of a network's input.")
@click.option("--range", multiple=True, metavar="NAME=WHITE", help="1 (default) or 255.")
@click.option("--order", multiple=True, metavar="NAME=ORDER", help="rgb (default) or bgr.")
@SPLIT_TABLE
@dataclass_options(options=EncoderOptions, run=EncoderRun)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def encoder(
    sources: tuple[Path, ...],
    serve: tuple[str, ...],
    out: Path,
    start: str | None,
    split_table: Path | None,
    options: EncoderOptions,
    run: EncoderRun,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train an encoder on PHOTOS (folders or tars, no labels) for networks of your own.

    The networks stay as they are: one stream of the new model gives each of them its features.
    Stopped and started again with the same options, it goes on. `cdvision train package RUN` then
    makes a model of it.
    """
    try:
        from cdvision.models.any_network.training.run import figures_table, train_encoder
        from cdvision.training.finished import open_finished
    except ImportError as error:
        raise CdvisionError(
            f"training needs {error.name}: install it with `pip install 'cdvision[train]'`"
        ) from error
    requests = _requests(serve, settings)
    try:
        figures = train_encoder(
            requests,
            sources,
            out,
            run.plan(),
            replace(options, photos=SMOKE_PHOTOS) if run.smoke else options,
            splits=read_splits(split_table),
            start=None if start is None else open_finished(start),
            say=lambda line: click.echo(line, err=True),
        )
    except KeyboardInterrupt:
        click.echo(f"cdvision: stopped; the same command goes on from {out}", err=True)
        raise
    values = [one.to_dict() for one in figures]
    click.echo(json.dumps(values) if as_json else figures_table(figures))


def _requests(serve: tuple[str, ...], settings: dict[str, Any]) -> dict[str, NetworkRequest]:
    from cdvision.models.any_network.served_networks import parse_serve, with_settings

    requests = parse_serve(serve)
    for field, read in _READ_AS.items():
        pairs = [_pair(text, requests) for text in settings[field]]
        requests = with_settings(requests, field, [(n, _read(field, read, v)) for n, v in pairs])
    return requests


def _pair(text: str, requests: dict[str, NetworkRequest]) -> tuple[str, str]:
    """Read ``NAME=VALUE``; where there is one network, its name may be left out."""
    name, equals, value = text.partition("=")
    if equals and (name in requests or len(requests) > 1):
        return name, value
    return "", text


def _read(field: str, read: Any, text: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise click.UsageError(f"--{field}: expected a number, found {text!r}") from error
    except click.BadParameter as error:
        raise click.UsageError(f"--{field}: {error.message}") from error


def build_package(
    run: Path,
    out: Path,
    *,
    record: dict[str, Any],
    classes: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Build a package from a finished run of `train encoder`, and say what it is."""
    from cdvision.models.any_network.package_builder import build_served

    if classes is not None or metrics is not None:
        raise click.UsageError("--classes and --metrics are for runs of `train small`")
    card, problems = build_served(run, out)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}: features for {', '.join(card.tails)}")
    for name, reason in problems.items():
        click.echo(f"{name}: without the network's outputs: {reason}", err=True)
