"""`cdvision models`: the model packages that are installed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

import cdvision

if TYPE_CHECKING:
    from cdvision.package.registry import ModelInfo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def models(as_json: bool) -> None:
    """List the models that are installed."""
    for info in cdvision.models():
        click.echo(json.dumps(_record(info)) if as_json else _text(info))


def _record(info: ModelInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "description": info.description,
        "tasks": list(info.tasks),
        "size_bytes": info.size_bytes,
        "path": str(info.path),
    }


def _text(info: ModelInfo) -> str:
    size = f"{info.size_bytes / 1e6:.1f} MB"
    return f"{info.name}  {size}  {', '.join(info.tasks)}\n  {info.description}\n  {info.path}"
