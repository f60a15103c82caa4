"""`cdvision train convert-zoo`: Detectron2's pickled checkpoints become safetensors, once."""

from __future__ import annotations

import warnings
from pathlib import Path

import click


@click.command("convert-zoo")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=Path, help="File to write (default: CHECKPOINT.safetensors).")
def convert_zoo(checkpoint: Path, out: Path | None) -> None:
    """Convert CHECKPOINT, a .pkl of Detectron2's model zoo, to safetensors.

    A pickle can hold programs. Nothing but arrays is read here: convert a file from its author
    once, and use what comes out.
    """
    from cdvision.models.dicm.zoo_weights import convert_zoo_checkpoint

    target = out or checkpoint.with_suffix(".safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = convert_zoo_checkpoint(checkpoint, target)
    for one in caught:
        click.echo(f"warning: {one.message}", err=True)
    click.echo(f"{target}: {count} arrays")
