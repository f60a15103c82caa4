"""`cdvision models`: the model packages that are installed, and what their networks cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.errors import ModelError

if TYPE_CHECKING:
    from cdvision.package.registry import ModelInfo

SENDER_FIGURES = ("multiply_adds", "milliseconds", "measured_on")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--cost",
    metavar="NETWORK",
    help="Count parameters and multiply-adds of a network, such as dicm, part by part instead.",
)
def models(as_json: bool, cost: str | None) -> None:
    """List the models that are installed."""
    if cost is not None:
        _print_costs(cost, as_json)
        return
    for info in cdvision.list_models():
        click.echo(json.dumps(_record(info)) if as_json else "\n  ".join(_lines(info)))


def _record(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "description": info.description,
        "tasks": list(info.tasks),
        "size_bytes": info.size_bytes,
        "path": str(info.path),
        "input_size": info.input_size,
        "senders": {
            name: {figure: getattr(sender, figure) for figure in SENDER_FIGURES}
            for name, sender in info.senders.items()
        },
    }


def _lines(info: ModelInfo) -> Iterator[str]:
    yield f"{info.name}  {info.size_bytes / 1e6:.1f} MB  {', '.join(info.tasks)}"
    yield info.description
    yield str(info.path)
    for name, sender in info.senders.items():
        # What one sender costs for a picture of the model's size, as far as its card knows.
        figures = []
        if sender.multiply_adds:
            figures.append(f"{sender.multiply_adds / 1e9:.2f} GMAC")
        if sender.milliseconds is not None:
            machine = f" on {sender.measured_on}" if sender.measured_on else ""
            figures.append(f"{sender.milliseconds:.1f} ms{machine}")
        told = ", ".join(figures) or "cost not measured"
        yield f"sender {name}: {told} at {info.input_size} x {info.input_size} pixels"


def _print_costs(network: str, as_json: bool) -> None:
    """Print parameters (millions) and multiply-adds (billions) of a network, part by part."""
    try:
        from cdvision.networks.cost import cost_table
    except ImportError as error:
        raise ModelError(
            "--cost runs the networks and needs PyTorch: "
            "install it with `pip install 'cdvision[torch]'`"
        ) from error
    parts = cost_table(network)
    if as_json:
        for part in parts:
            click.echo(json.dumps(vars(part)))
        return
    click.echo(f"{'256 x 256 pixels':<24}{'params M':>9}{'GMAC':>9}  runs on")
    for part in parts:
        click.echo(_row(part.part, part.parameters, part.multiply_adds, ", ".join(part.sides)))
    # Some parts run on both sides, so the sums overlap.
    for side in ("sender", "receiver"):
        own = [part for part in parts if side in part.sides]
        sums = (sum(p.parameters for p in own), sum(p.multiply_adds for p in own))
        click.echo(_row(f"all that a {side} runs", *sums))


def _row(name: str, parameters: int, multiply_adds: int, sides: str = "") -> str:
    numbers = f"{parameters / 1e6:>9.2f}{multiply_adds / 1e9:>9.3f}"
    return f"{name:<24}{numbers}  {sides}".rstrip()
