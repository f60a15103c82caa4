"""The options that choose a model, an engine, a quality and a size, and the model they choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

import cdvision

if TYPE_CHECKING:
    from cdvision import Model, Stream

ENGINES = ("onnx", "torch", "tensorrt")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Options = TypeVar("Options")


@dataclass(frozen=True)
class ChosenModel:
    """The model that the options name: encodes images, opens streams.

    Args:
        model: name or folder; `None` lets the stream choose by its fingerprint.
        engine: name of the engine; `None` for the default.
        device: device of the engine, for example "cpu" or "cuda".
        threads: threads of the engine; `None` for its own choice.
    """

    model: str | None = None
    engine: str | None = None
    device: str = "cpu"
    threads: int | None = None

    def encode(self, image: bytes, **options: Any) -> bytes:
        """Return the stream of one image file; options are those of ``cdvision.encode``."""
        if self._default:
            return cdvision.encode(image, **options)
        return self.loaded.encode(image, **options)

    def open(self, stream: bytes) -> Stream:
        """Decode one stream."""
        return cdvision.open(stream) if self._default else self.loaded.open(stream)

    @property
    def _default(self) -> bool:
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


def popped(kind: type[Options], given: dict[str, Any]) -> Options:
    """Make a dataclass of those given options that are its fields, and take them out."""
    names = [field.name for field in fields(kind) if field.name in given]  # type: ignore[arg-type]
    return kind(**{name: given.pop(name) for name in names})


def all_of(*options: Decorator) -> Decorator:
    """Return a decorator that adds several options to a command, in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


model_options = all_of(
    click.option("--model", metavar="NAME|FOLDER", help="Model package to use."),
    click.option("--engine", type=click.Choice(ENGINES), help="What runs the networks."),
    click.option("--device", default="cpu", show_default=True, help="Where the engine runs."),
    click.option("--threads", type=click.IntRange(1), help="Threads of the engine."),
)
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
