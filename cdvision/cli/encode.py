"""`cdvision encode`: images to streams."""

from __future__ import annotations

import sys
from typing import Any

import click

import cdvision
from cdvision.cli.inputs import IMAGE_SUFFIXES, Input, expand_inputs, inputs_argument
from cdvision.cli.opener import Opener, model_options, quality_option, size_option
from cdvision.cli.outputs import Outputs, stream_outputs
from cdvision.cli.report import Report, json_option


@click.command()
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
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="Leave out what other tasks need: detect, segment, classify, ...; may be repeated "
    "(default: all of the model's).",
)
@model_options
@json_option
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    force: bool,
    quality: int | None,
    size: int | None,
    tasks: tuple[str, ...],
    as_json: bool,
    **model: Any,
) -> None:
    """Turn images into streams.

    Folders are searched for images to the bottom; with -o FOLDER their inner names are kept.
    """
    items = expand_inputs(inputs, IMAGE_SUFFIXES)
    outputs = stream_outputs(items, output, force=force)
    if outputs is None and as_json:
        raise click.UsageError("--json and the stream cannot both go to stdout.")
    opener, report = Opener(**model), Report(as_json=as_json)

    def encode_one(item: Input) -> None:
        if outputs is not None:
            outputs.check(item)
        image = item.read()
        stream = opener.encode(image, quality=quality, size=size, tasks=tasks or None)
        if outputs is None:
            sys.stdout.buffer.write(stream)
        else:
            _write(item, image, stream, outputs, report)

    report.each(items, encode_one)


def _write(item: Input, image: bytes, stream: bytes, outputs: Outputs, report: Report) -> None:
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
    report.answer(item.name, record, text)


def _header(stream: bytes) -> dict[str, int]:
    info = cdvision.inspect(stream)
    return {"width": info.width, "height": info.height, "quality": info.quality}
