"""The commands of the tasks, such as `cdvision detect`: one answer for each stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.cli.drawing import Drawing, drawing_options
from cdvision.cli.input_files import (
    IMAGE_SUFFIXES,
    STREAM_SUFFIXES,
    InputFile,
    expand_inputs,
    inputs_argument,
)
from cdvision.cli.model_options import (
    ChosenModel,
    all_of,
    model_options,
    popped,
    quality_option,
    size_option,
)
from cdvision.cli.printer import Printer, indented, json_option
from cdvision.cli.task_options import TaskCommand, batched_options
from cdvision.tasks import Task

if TYPE_CHECKING:
    from cdvision import Stream
    from cdvision.stream import StreamInfo

HELP = """{summary}

Takes .cdv streams; an image file is encoded first (at --quality and --size, by --model), for
convenience{drawn}."""


@dataclass(frozen=True)
class OpenedInput:
    """One input, decoded: its stream, and its pixels where the input was an image file."""

    stream: Stream
    size: int  # bytes of the stream
    info: StreamInfo
    photo: bytes | None


def task_command(task: Task) -> click.Command:
    """Return the command that asks one task of every input."""
    drawn = ", and is what --draw draws on" if task.drawable else ""
    drawing = drawing_options if task.drawable else all_of()

    @click.command(
        task.name,
        cls=TaskCommand,
        from_table=lambda: batched_options([task]),
        help=HELP.format(summary=task.summary, drawn=drawn),
    )
    @inputs_argument
    @drawing
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
    as_json: bool,
    quality: int | None,
    size: int | None,
    draw: Path | None = None,
    image: Path | None = None,
    force: bool = False,
    **given: Any,
) -> None:
    """Open every input, ask it the task, and print and draw the answers."""
    items = expand_inputs(inputs, STREAM_SUFFIXES + IMAGE_SUFFIXES)
    drawing = Drawing(items, folder=draw, image=image, force=force)
    model, printer = popped(ChosenModel, given), Printer(as_json=as_json)

    def answer_one(item: InputFile) -> None:
        opened = _open(item, model, quality, size)
        answer = opened.stream.ask(task.name, **given)
        drawing.write(item, answer, opened.photo, opened.stream.source_size)
        _print(item, opened, answer, printer)

    printer.each(items, answer_one)


def _print(item: InputFile, opened: OpenedInput, answer: Any, printer: Printer) -> None:
    info = opened.info
    record = {"bytes": opened.size, "complete": info.complete, **answer.to_dict()}
    title = f"{item.name}  {info.width}x{info.height}, {opened.size:,} bytes"
    if not info.complete:
        title += ", incomplete"
    text = str(answer) if len(answer) else "nothing found"
    printer.answer(item.name, record, f"{title}\n{indented(text)}")


def _open(
    item: InputFile, model: ChosenModel, quality: int | None, size: int | None
) -> OpenedInput:
    data = item.read()
    photo = data if item.holds_image(data) else None
    stream = data if photo is None else model.encode(photo, quality=quality, size=size)
    return OpenedInput(model.open(stream), len(stream), cdvision.inspect(stream), photo)
