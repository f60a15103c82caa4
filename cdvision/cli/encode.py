"""`cdvision encode`: images to streams."""

from __future__ import annotations

import sys
from typing import Any

import click

import cdvision
from cdvision.cli.input_files import IMAGE_SUFFIXES, InputFile, expand_inputs, inputs_argument
from cdvision.cli.model_options import ChosenModel, model_options, quality_option, size_option
from cdvision.cli.output_files import OutputFiles, stream_outputs
from cdvision.cli.printer import Printer, json_option
from cdvision.cli.task_options import TaskCommand, task_choice
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
@quality_option
@size_option
@click.option("--sender", metavar="NAME", help="Sender of the model (default: its first).")
@model_options
@json_option
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    force: bool,
    quality: int | None,
    size: int | None,
    tasks: tuple[str, ...],
    sender: str | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Turn images into streams.

    Folders are searched for images to the bottom; with -o FOLDER their inner names are kept.
    """
    items = expand_inputs(inputs, IMAGE_SUFFIXES)
    outputs = stream_outputs(items, output, force=force)
    if outputs is None and as_json:
        raise click.UsageError("--json and the stream cannot both go to stdout.")
    model, printer = ChosenModel(**chosen), Printer(as_json=as_json)

    def encode_one(item: InputFile) -> None:
        if outputs is not None:
            outputs.check(item)
        image = item.read()
        options = {"quality": quality, "size": size, "tasks": tasks or None, "sender": sender}
        stream = model.encode(image, **options)
        if outputs is None:
            sys.stdout.buffer.write(stream)
        else:
            _write(item, image, stream, outputs, printer)

    printer.each(items, encode_one)


def _write(
    item: InputFile, image: bytes, stream: bytes, outputs: OutputFiles, printer: Printer
) -> None:
    """Write one stream and say how large it is beside its image file."""
    path = outputs.write(item, stream)
    share = len(stream) / len(image)
    record = {
        "output": str(path),
        "bytes": len(stream),
        "image_bytes": len(image),
        **_header(stream),
    }
    text = f"{item.name} -> {path}  {len(stream):,} bytes, {share:.1%} of {len(image):,}"
    printer.answer(item.name, record, text)


def _header(stream: bytes) -> dict[str, int]:
    info = cdvision.inspect(stream)
    return {"width": info.width, "height": info.height, "quality": info.quality}
