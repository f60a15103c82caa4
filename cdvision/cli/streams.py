"""`cdvision encode`, `reconstruct` and `inspect`: images to streams, back, and what is in them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import click

import cdvision
from cdvision.cli.command_line import told_if_full
from cdvision.cli.input_files import (
    STREAM_SUFFIXES,
    InputFile,
    expand_inputs,
    inputs_argument,
)
from cdvision.cli.model_options import ChosenModel, model_options, quality_option, size_option
from cdvision.cli.output_files import OutputFiles, stream_outputs
from cdvision.cli.printer import Printer, indented, json_option
from cdvision.cli.task_options import TaskCommand, task_choice
from cdvision.image_files import photo_suffixes
from cdvision.stream import truncate_stream
from cdvision.tasks import tasks as all_tasks


def _from_table() -> list[click.Option]:
    what = "Leave out what other tasks need; may be repeated (default: all of the model's)."
    return [task_choice(all_tasks().values(), what)]


@click.command(cls=TaskCommand, from_table=_from_table)
@inputs_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE.cdv|FOLDER|-",
    help="Where streams go; - is stdout (default: beside each image; stdout for stdin).",
)
@click.option("--force", is_flag=True, help="Replace streams that exist.")
@click.option("--skip-existing", is_flag=True, help="Leave out images that have their stream.")
@quality_option
@size_option
@click.option("--sender", metavar="NAME", help="Sender of the model (default: its first).")
@model_options
@json_option
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    force: bool,
    skip_existing: bool,
    tasks: tuple[str, ...],
    as_json: bool,
    chosen: ChosenModel,
    **how: Any,
) -> None:
    """Turn images into streams.

    Folders are searched for images to the bottom; with -o FOLDER their inner names are kept.
    """
    if force and skip_existing:
        raise click.UsageError("--force replaces streams that exist, --skip-existing leaves them.")
    items = expand_inputs(inputs, photo_suffixes())
    outputs = stream_outputs(items, output, force=force)
    if skip_existing and outputs is not None:
        items = _without_stream(items, outputs)
    if outputs is None and as_json:
        raise click.UsageError("--json and the stream cannot both go to stdout.")
    printer = Printer(as_json=as_json)
    if how["size"] is not None or tasks:
        chosen.check(tasks=tasks or None, size=how["size"])

    def encode_one(item: InputFile) -> None:
        if outputs is not None:
            outputs.check(item)  # before the work, not after it
        image = item.read()
        stream = chosen.encode(image, tasks=tasks or None, **how)
        if outputs is None:
            with told_if_full():
                sys.stdout.buffer.write(stream)
                sys.stdout.buffer.flush()
        else:
            _write(item, image, stream, outputs, printer)

    printer.each(items, encode_one)


def _without_stream(items: list[InputFile], outputs: OutputFiles) -> list[InputFile]:
    """Leave out what was encoded before, and say how many that are."""
    left = [item for item in items if not outputs.exists(item)]
    if len(left) < len(items):
        click.echo(f"cdvision: {len(items) - len(left)} have their stream already", err=True)
    return left


def _write(
    item: InputFile, image: bytes, stream: bytes, outputs: OutputFiles, printer: Printer
) -> None:
    """Write one stream and say how large it is beside its image file."""
    path, info = outputs.write(item, stream), cdvision.inspect(stream)
    share = len(stream) / len(image)
    record = {
        "output": str(path),
        "bytes": len(stream),
        "image_bytes": len(image),
        "width": info.width,
        "height": info.height,
        "quality": info.quality,
    }
    text = f"{item.name} -> {path}  {len(stream):,} bytes, {share:.1%} of {len(image):,}"
    printer.answer(item.name, record, text)


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
    chosen: ChosenModel,
) -> None:
    """Rebuild pictures from streams, where their model can: better from more layers."""
    items = expand_inputs(inputs, STREAM_SUFFIXES)
    outputs = OutputFiles(items, suffix=".png", folder=output, force=force)
    printer = Printer(as_json=as_json)

    def rebuild(item: InputFile) -> None:
        from PIL import Image

        outputs.check(item)
        data = item.read()
        bits = data if layers is None else truncate_stream(data, layers)
        picture = Image.fromarray(chosen.open(bits).reconstruct())
        path = outputs.write(item, png(picture))
        width, height = picture.size
        record = {"output": str(path), "bytes": len(bits), "width": width, "height": height}
        text = f"{item.name} -> {path}  {width}x{height} from {len(bits):,} bytes"
        printer.answer(item.name, record, text)

    printer.each(items, rebuild)


def png(picture: Any) -> bytes:
    """Return a PIL image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


@click.command()
@inputs_argument
@json_option
def inspect(inputs: tuple[str, ...], as_json: bool) -> None:
    """Show the header of streams; needs no model.

    A cut or damaged layer is shown, not refused: it is what one inspects a stream for.
    """
    printer = Printer(as_json=as_json)

    def inspect_one(item: InputFile) -> None:
        info = cdvision.inspect(item.read())
        printer.answer(item.name, info.to_dict(), f"{item.name}\n{indented(str(info))}")

    printer.each(expand_inputs(inputs, STREAM_SUFFIXES), inspect_one)
