"""Pictures of answers: what `--draw`, `--image` and `--force` ask for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cdvision.cli.input_files import InputFile
from cdvision.cli.model_options import all_of
from cdvision.cli.output_files import OutputFiles

drawing_options = all_of(
    click.option("--draw", metavar="FOLDER", type=Path, help="Write a picture with answers there."),
    click.option("--image", metavar="PHOTO", type=Path, help="Photo to draw on (default: blank)."),
    click.option("--force", is_flag=True, help="Replace pictures that exist."),
)


class Drawing:
    """Draws answers, where `--draw` was given.

    Args:
        inputs: everything that the command reads.
        folder: where pictures go; None for none.
        image: the photo to draw on; where None, the input itself if it is a photo, or else white.
        force: replace pictures that exist.

    Raises:
        click.UsageError: the options do not go together.
    """

    def __init__(
        self, inputs: Sequence[InputFile], *, folder: Path | None, image: Path | None, force: bool
    ) -> None:
        if image is not None and folder is None:
            raise click.UsageError("--image is what --draw draws on; give --draw FOLDER too.")
        if image is not None and len(inputs) != 1:
            raise click.UsageError("--image goes with one stream.")
        if image is not None and not image.is_file():
            raise click.UsageError(f"--image {image}: no such file.")
        self._wanted, self._image = folder is not None, image
        self._outputs = OutputFiles(inputs, suffix=".png", folder=folder, force=force)

    def write(
        self, item: InputFile, answer: Any, photo: bytes | None, size: tuple[int, int]
    ) -> None:
        """Draw one answer on its photo, or on white of (width, height) pixels."""
        if not self._wanted:
            return
        from PIL import Image

        given = photo if self._image is None else self._image.read_bytes()
        picture = answer.draw(Image.new("RGB", size, "white") if given is None else given)
        png = io.BytesIO()
        picture.save(png, "png")
        self._outputs.write(item, png.getvalue())
