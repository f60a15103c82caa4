"""`cdvision train encoder`: an encoder of one's own, for any set of networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.fit import triple
from cdvision.cli.training_options import OUT, SPLIT_TABLE, RunOptions, read_splits
from cdvision.errors import CdvisionError
from cdvision.fitting.options import FitOptions
from cdvision.models.any_network.training.options import EncoderOptions
from cdvision.training.checked_options import Weight

if TYPE_CHECKING:
    from cdvision.fitting.sources import NetworkRequest

SMOKE_PHOTOS = 16
READ_AS: dict[str, Callable[[str], Any]] = {
    "mean": triple,
    "std": triple,
    "range": float,
    "order": str,
    "weights": str,
}


@dataclass(frozen=True)
class EncoderRun(RunOptions):
    """How long, how much and where an encoder trains."""

    minutes: Weight = 60.0
    fast_at_bf16 = staticmethod(FitOptions.fast_at_bf16)


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
        from cdvision.models.any_network.user_networks import parse_networks
        from cdvision.training.finished import open_finished
    except ImportError as error:
        raise CdvisionError(
            f"training needs {error.name}: install it with `pip install 'cdvision[train]'`"
        ) from error
    requests = parse_networks(serve)
    for field in READ_AS:
        requests = with_settings(requests, field, settings[field])
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


def with_settings(
    requests: Mapping[str, NetworkRequest], field: str, texts: Sequence[str]
) -> dict[str, NetworkRequest]:
    """Set one field of requests from texts ``NAME=VALUE``; an only network needs no name."""
    found = dict(requests)
    for text in texts:
        name, equals, value = text.partition("=")
        # Of an only network, all is value that does not begin with its name: a path, say.
        if len(found) == 1 and not (equals and name in found):
            (name,), value = found, text
        elif not equals:
            raise CdvisionError(
                f"--{field}: say which network is meant, NAME={text}: {', '.join(found)}"
            )
        if name not in found:
            raise CdvisionError(f"--{field}: no network is called {name!r}: {', '.join(found)}")
        try:
            found[name] = replace(found[name], **{field: READ_AS[field](value)})
        except ValueError as error:
            raise click.UsageError(f"--{field}: expected a number, found {value!r}") from error
        except click.BadParameter as error:
            raise click.UsageError(f"--{field}: {error.message}") from error
    return found


def build_package(
    run: Path,
    out: Path,
    *,
    record: dict[str, Any],
    classes: Path | None = None,
    metrics: Path | None = None,
) -> None:
    """Build a package from a finished run of `train encoder`, and say what it is."""
    from cdvision.models.any_network.package_builder import build_model_package

    if classes is not None or metrics is not None:
        raise click.UsageError("--classes and --metrics are for runs of `train small`")
    card, problems = build_model_package(run, out)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}: features for {', '.join(card.tails)}")
    for name, reason in problems.items():
        click.echo(f"{name}: without the network's outputs: {reason}", err=True)
