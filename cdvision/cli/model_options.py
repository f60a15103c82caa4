"""The options that several commands share: model, quality, size, photos, and the kind of output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

import cdvision
from cdvision.cli.dataclass_options import dataclass_options
from cdvision.training.checked_options import CheckedOptions, Count

if TYPE_CHECKING:
    from cdvision import Model, Stream

Engine = Literal["onnx", "torch", "tensorrt"]
ENGINES: tuple[str, ...] = get_args(Engine)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True)
class ChosenModel(CheckedOptions):
    """The model that the options name: encodes images, opens streams.

    Attributes:
        model: name or folder of the model package (default: the one that wrote a stream, small).
        engine: what runs the networks.
        device: where the engine runs, for example cpu or cuda.
        threads: threads of the engine.
    """

    model: str | None = None
    engine: Engine | None = None
    device: str = "cpu"
    threads: Count | None = None

    def encode(self, image: bytes, **options: Any) -> bytes:
        """Return the stream of one image file; options are those of ``cdvision.encode``."""
        encode = cdvision.encode if self._default else self.loaded.encode
        return encode(image, **options)

    def check(self, **options: Any) -> None:
        """Refuse options of ``encode`` at once, not for each image; raises CdvisionError."""
        self.loaded.check_encoding(**options)

    def open(self, stream: bytes) -> Stream:
        """Decode one stream."""
        return cdvision.open(stream) if self._default else self.loaded.open(stream)

    @property
    def _default(self) -> bool:
        # Only where nothing was chosen may the stream choose, by its fingerprint.
        return self == ChosenModel()

    @cached_property
    def loaded(self) -> Model:
        """The model itself, for commands that ask many things of it."""
        from cdvision.package.registry import DEFAULT_MODEL

        return cdvision.load(
            self.model or DEFAULT_MODEL,
            engine=self.engine or ENGINES[0],
            device=self.device,
            threads=self.threads,
        )


def all_of(*options: Decorator) -> Decorator:
    """Return a decorator that adds several options to a command, in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        # click puts what is applied last first
        for option in reversed(options):
            command = option(command)
        return command

    return add


def count_option(
    name: str, default: int | None, help: str | None = None, least: int = 1
) -> Decorator:
    """Return the option of a whole number; without a default it may be left out."""
    kind, shown = click.IntRange(least), default is not None
    return click.option(name, type=kind, default=default, show_default=shown, help=help)


def photos_option(help: str, *, required: bool = False) -> Decorator:
    """Return the option ``--photos``, which names a folder."""
    return click.option("--photos", type=FOLDER, required=required, help=help)


FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
model_options = dataclass_options(chosen=ChosenModel)
quality_option = click.option(
    "-q",
    "--quality",
    type=click.IntRange(1, 8),
    help="1 is the smallest stream, 8 the most faithful (default: the model's own).",
)
size_option = click.option(
    "--size",
    type=click.IntRange(32, 8192),
    help="Long side of the network input, a multiple of 32 (default: the photo's, up to 416).",
)
report_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
