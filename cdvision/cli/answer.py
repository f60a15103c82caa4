"""`cdvision classify`, `detect`, `segment`, `attributes`: one answer for each stream."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.cli.inputs import (
    IMAGE_SUFFIXES,
    STREAM_SUFFIXES,
    Input,
    expand_inputs,
    inputs_argument,
)
from cdvision.cli.opener import Opener, model_options, quality_option, size_option
from cdvision.cli.outputs import Outputs
from cdvision.cli.report import Answer, Report, indented, json_option
from cdvision.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from cdvision import Detections, Stream
    from cdvision.stream import StreamInfo

SAME_ASPECT = 0.02  # a thumbnail's sides are rounded


@dataclass(frozen=True)
class Opened:
    """One input, decoded: its stream, and its pixels where the input was an image file."""

    stream: Stream
    size: int
    info: StreamInfo
    photo: bytes | None


@click.command()
@inputs_argument
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes."
)
@quality_option
@size_option
@model_options
@json_option
def classify(inputs: tuple[str, ...], top: int, as_json: bool, **how: Any) -> None:
    """Say what is in a picture, from its stream.

    Takes .cdv streams; an image file is encoded first (at --quality and --size), for convenience.
    """
    _answer_each(
        expand_all(inputs), lambda _, opened: opened.stream.classify(top=top), as_json, how
    )


def objects_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `detect` and `segment` take."""
    for option in reversed(
        (
            inputs_argument,
            click.option(
                "--confidence",
                type=click.FloatRange(0, 1),
                default=0.3,
                show_default=True,
                help="Least confidence of a box.",
            ),
            click.option(
                "--draw", metavar="FOLDER", type=Path, help="Write a picture with boxes there."
            ),
            click.option(
                "--image", metavar="PHOTO", type=Path, help="Photo to draw on (default: blank)."
            ),
            click.option("--force", is_flag=True, help="Replace pictures that exist."),
            quality_option,
            size_option,
            model_options,
            json_option,
        )
    ):
        command = option(command)
    return command


@click.command()
@objects_options
def detect(**how: Any) -> None:
    """Say what is where in a picture, from its stream.

    Takes .cdv streams; an image file is encoded first (at --quality and --size), for convenience,
    and is what --draw draws on.
    """
    _find_objects(lambda stream, confidence: stream.detect(confidence=confidence), **how)


@click.command()
@objects_options
def segment(**how: Any) -> None:
    """Say what is where in a picture, with the outline of each object, from its stream.

    Takes .cdv streams; an image file is encoded first (at --quality and --size), for convenience,
    and is what --draw draws on.
    """
    _find_objects(lambda stream, confidence: stream.segment(confidence=confidence), **how)


@click.command()
@inputs_argument
@click.option("--all", "all_attributes", is_flag=True, help="All attributes, not only plain ones.")
@quality_option
@size_option
@model_options
@json_option
def attributes(inputs: tuple[str, ...], all_attributes: bool, as_json: bool, **how: Any) -> None:
    """Tell the attributes of a face, from its stream: from its first layer, better from all.

    Takes .cdv streams of a model of faces; an image file is encoded first, for convenience: give
    the model then.
    """
    _answer_each(
        expand_all(inputs),
        lambda _, opened: opened.stream.attributes(all_attributes=all_attributes),
        as_json,
        how,
    )


def _find_objects(
    ask: Callable[[Stream, float], Detections],
    *,
    inputs: tuple[str, ...],
    confidence: float,
    draw: Path | None,
    image: Path | None,
    force: bool,
    as_json: bool,
    **how: Any,
) -> None:
    items = expand_all(inputs)
    _check_drawing(items, draw, image)
    outputs = Outputs(items, suffix=".png", folder=draw, force=force)

    def answer(item: Input, opened: Opened) -> Detections:
        detections = ask(opened.stream, confidence)
        if draw is not None:
            photo = image.read_bytes() if image is not None else opened.photo
            outputs.write(item, draw_png(detections, photo, opened.info))
        return detections

    _answer_each(items, answer, as_json, how)


def expand_all(inputs: tuple[str, ...]) -> list[Input]:
    """Return the streams and images that the arguments name."""
    return expand_inputs(inputs, STREAM_SUFFIXES + IMAGE_SUFFIXES)


def draw_png(detections: Detections, photo: bytes | None, info: StreamInfo) -> bytes:
    """Return a PNG of the boxes on the photo, or on a blank canvas of the photo's size."""
    from PIL import Image

    size = (info.width, info.height)
    canvas = Image.new("RGB", size, "white") if photo is None else _read_photo(photo)
    if abs(canvas.width * size[1] / (canvas.height * size[0]) - 1) > SAME_ASPECT:
        found, expected = f"{canvas.width}x{canvas.height}", f"{size[0]}x{size[1]}"
        raise ImageError(f"the stream is of a photo of {expected} pixels, this one has {found}")
    png = io.BytesIO()
    detections.draw(canvas).save(png, "png")
    return png.getvalue()


def _read_photo(photo: bytes) -> Image:
    from PIL import Image, ImageOps

    try:
        return ImageOps.exif_transpose(Image.open(io.BytesIO(photo))).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"the photo to draw on cannot be read: {error}") from error


def _check_drawing(items: list[Input], draw: Path | None, image: Path | None) -> None:
    if image is not None and draw is None:
        raise click.UsageError("--image is what --draw draws on; give --draw FOLDER too.")
    if image is not None and len(items) != 1:
        raise click.UsageError("--image goes with one stream.")
    if image is not None and not image.is_file():
        raise click.UsageError(f"--image {image}: no such file.")


def _answer_each(
    items: list[Input],
    question: Callable[[Input, Opened], Answer],
    as_json: bool,
    how: dict[str, Any],
) -> None:
    """Open every input, ask it one question, and report the answers."""
    quality, size = how.pop("quality"), how.pop("size")
    opener, report = Opener(**how), Report(as_json=as_json)

    def answer_one(item: Input) -> None:
        opened = _open(item, opener, quality, size)
        answer = question(item, opened)
        info = opened.info
        record = {"bytes": opened.size, "complete": info.complete, **answer.to_dict()}
        title = f"{item.name}  {info.width}x{info.height}, {opened.size:,} bytes"
        if not info.complete:
            title += ", incomplete"
        text = str(answer) if len(answer) else "nothing found"
        report.answer(item.name, record, f"{title}\n{indented(text)}")

    report.each(items, answer_one)


def _open(item: Input, opener: Opener, quality: int | None, size: int | None) -> Opened:
    data = item.read()
    photo = data if item.holds_image(data) else None
    stream = data if photo is None else opener.encode(photo, quality=quality, size=size)
    return Opened(opener.open(stream), len(stream), cdvision.inspect(stream), photo)
