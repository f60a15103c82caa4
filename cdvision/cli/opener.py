"""The options that choose a model and an engine, and the one place where they are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

import cdvision

if TYPE_CHECKING:
    from cdvision import Model, Stream

ENGINES = ("onnx", "torch", "tensorrt")

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Opener:
    """Encodes images and opens streams with the model that the options name.

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

    def encode(
        self,
        image: bytes,
        *,
        quality: int | None,
        size: int | None,
        tasks: tuple[str, ...] | None = None,
    ) -> bytes:
        """Return the stream of one image file, for some tasks or for all."""
        if self._default:
            return cdvision.encode(image, quality=quality, size=size, tasks=tasks)
        return self._loaded.encode(image, quality=quality, size=size, tasks=tasks)

    def open(self, stream: bytes) -> Stream:
        """Decode one stream."""
        return cdvision.open(stream) if self._default else self._loaded.open(stream)

    def model_for_evaluation(self) -> Model:
        """Return the model itself, for commands that ask many things of it."""
        return self._loaded

    @property
    def _default(self) -> bool:
        return self == Opener()

    @cached_property
    def _loaded(self) -> Model:
        from cdvision.package.registry import DEFAULT_MODEL

        return cdvision.load(
            self.model or DEFAULT_MODEL,
            engine=self.engine or ENGINES[0],
            device=self.device,
            threads=self.threads,
        )


def model_options(command: Command) -> Command:
    """Add `--model --engine --device --threads` to a command."""
    for option in reversed(
        (
            click.option("--model", metavar="NAME|FOLDER", help="Model package to use."),
            click.option("--engine", type=click.Choice(ENGINES), help="What runs the networks."),
            click.option(
                "--device", default="cpu", show_default=True, help="Where the engine runs."
            ),
            click.option("--threads", type=click.IntRange(1), help="Threads of the engine."),
        )
    ):
        command = option(command)
    return command


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
