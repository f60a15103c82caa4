"""The commands of the tasks, such as `cdvision detect`: one answer for each stream, drawn too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import cdvision
from cdvision.cli.input_files import (
    STREAM_SUFFIXES,
    InputFile,
    expand_inputs,
    inputs_argument,
)
from cdvision.cli.model_options import (
    ChosenModel,
    all_of,
    model_options,
    quality_option,
    size_option,
)
from cdvision.cli.output_files import OutputFiles
from cdvision.cli.printer import Printer, indented, json_option
from cdvision.cli.streams import png
from cdvision.cli.task_options import TaskCommand, batched_options
from cdvision.image_files import photo_suffixes
from cdvision.tasks import Task

HELP = """{summary}

Takes .cdv streams; an image file is encoded first (at --quality and --size, by --model), for
convenience{drawn}."""

drawing_options = all_of(
    click.option("--draw", metavar="FOLDER", type=Path, help="Write a picture with answers there."),
    click.option("--image", metavar="PHOTO", type=Path, help="Photo to draw on (default: blank)."),
    click.option("--force", is_flag=True, help="Replace pictures that exist."),
)


def task_command(task: Task) -> click.Command:
    """Return the command that asks one task of every input."""
    drawn = ", and is what --draw draws on" if task.drawable else ""

    @click.command(
        task.name,
        cls=TaskCommand,
        from_table=lambda: batched_options([task]),
        help=HELP.format(summary=task.summary, drawn=drawn),
    )
    @inputs_argument
    @(drawing_options if task.drawable else all_of())
    @quality_option
    @size_option
    @model_options
    @json_option
    def ask(**given: Any) -> None:
        _ask_each(task, **given)

    return ask


def _ask_each(
    task: Task,
    *,
    inputs: tuple[str, ...],
    chosen: ChosenModel,
    as_json: bool,
    quality: int | None,
    size: int | None,
    draw: Path | None = None,
    image: Path | None = None,
    force: bool = False,
    **asked: Any,
) -> None:
    """Open every input, ask it the task, and print and draw the answers."""
    items = expand_inputs(inputs, STREAM_SUFFIXES + photo_suffixes())
    _check_drawing(items, draw, image)
    pictures = OutputFiles(items, suffix=".png", folder=draw, force=force)
    printer = Printer(as_json=as_json)

    if size is not None:
        chosen.check(quality=quality, size=size)

    def answer_one(item: InputFile) -> None:
        if draw is not None:
            pictures.check(item)  # before the work, not after it
        data = item.read()
        is_photo = item.holds_image(data)
        bits = chosen.encode(data, quality=quality, size=size) if is_photo else data
        stream = chosen.open(bits)
        answer = stream.ask(task.name, **asked)
        # Told before it is drawn: an answer is not lost for a picture that cannot be written.
        _print(item, bits, answer, printer)
        if draw is not None:
            photo = data if is_photo else None
            given = photo if image is None else image.read_bytes()
            pictures.write(item, _draw(answer, given, stream.source_size))

    printer.each(items, answer_one)


def _check_drawing(items: Sequence[InputFile], folder: Path | None, image: Path | None) -> None:
    """Refuse options of drawing that do not go together."""
    if image is None:
        return
    if folder is None:
        raise click.UsageError("--image is what --draw draws on; give --draw FOLDER too.")
    if len(items) != 1:
        raise click.UsageError("--image goes with one stream.")
    if not image.is_file():
        raise click.UsageError(f"--image {image}: no such file.")


def _draw(answer: Any, photo: bytes | None, size: tuple[int, int]) -> bytes:
    """Return a PNG of an answer on its photo, or on white of (width, height) pixels."""
    from PIL import Image

    return png(answer.draw(Image.new("RGB", size, "white") if photo is None else photo))


def _print(item: InputFile, bits: bytes, answer: Any, printer: Printer) -> None:
    info = cdvision.inspect(bits)
    record = {"bytes": len(bits), "complete": info.complete, **answer.to_dict()}
    title = f"{item.name}  {info.width}x{info.height}, {len(bits):,} bytes"
    if not info.complete:
        title += ", incomplete"
    text = str(answer) if len(answer) else "nothing found"
    printer.answer(item.name, record, f"{title}\n{indented(text)}")
