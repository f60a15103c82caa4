"""`cdvision reconstruct`: streams back to pictures, for models that can."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import click

from cdvision.cli.input_files import STREAM_SUFFIXES, InputFile, expand_inputs, inputs_argument
from cdvision.cli.model_options import ChosenModel, model_options
from cdvision.cli.output_files import OutputFiles
from cdvision.cli.printer import Printer, json_option
from cdvision.stream import truncate_stream


@click.command()
@inputs_argument
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=Path,
    help="Where PNGs go (default: beside each stream).",
)
@click.option("--layers", type=click.IntRange(1), help="Use the first so many layers only.")
@click.option("--force", is_flag=True, help="Replace pictures that exist.")
@model_options
@json_option
def reconstruct(
    inputs: tuple[str, ...],
    output: Path | None,
    layers: int | None,
    force: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Rebuild pictures from streams, where their model can: better from more layers."""
    items = expand_inputs(inputs, STREAM_SUFFIXES)
    outputs = OutputFiles(items, suffix=".png", folder=output, force=force)
    model, printer = ChosenModel(**chosen), Printer(as_json=as_json)

    def rebuild(item: InputFile) -> None:
        outputs.check(item)
        data = item.read()
        bits = data if layers is None else truncate_stream(data, layers)
        picture = model.open(bits).reconstruct()
        path = outputs.write(item, _png(picture))
        height, width = picture.shape[:2]
        record = {"output": str(path), "bytes": len(bits), "width": width, "height": height}
        text = f"{item.name} -> {path}  {width}x{height} from {len(bits):,} bytes"
        printer.answer(item.name, record, text)

    printer.each(items, rebuild)


def _png(picture: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()
