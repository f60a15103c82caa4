"""The exception tree: every error that cdvision raises on purpose derives from CdvisionError."""

from __future__ import annotations

from typing import Any


class CdvisionError(Exception):
    """Base of every error that cdvision raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception would call the class with its message: one with other arguments, such as
        # BitstreamError, would then tell the message twice.
        return _rebuilt, (type(self), self.args), self.__dict__


class BitstreamError(CdvisionError):
    """The bytes are not a stream that this release can read.

    Args:
        field: what was being read, for example ``"magic"`` or ``"layer 0 checksum"``.
        offset: position of that field, in bytes from the start of the stream (of the layer's
            payload for an entropy-coded field); ``None`` where no single byte is to blame.
        expected: what a valid stream holds there.
        found: what these bytes hold.
    """

    def __init__(
        self,
        field: str,
        *,
        offset: int | None = None,
        expected: object = None,
        found: object = None,
    ) -> None:
        self.field, self.offset, self.expected, self.found = field, offset, expected, found
        where = "" if offset is None else f" at byte {offset}"
        super().__init__(f"bad stream: {field}{where}: expected {expected}, found {found}")


class ModelError(CdvisionError):
    """A model package is missing, damaged, or not the one that wrote a stream."""


class UnsupportedTask(CdvisionError):
    """The model has no tap and head for the task that was asked for."""


class EngineError(CdvisionError):
    """An engine cannot be loaded, or cannot run a graph."""


class ImageError(CdvisionError):
    """An input image cannot be read, or is outside the limits."""


def _rebuilt(kind: type[CdvisionError], args: tuple[Any, ...]) -> CdvisionError:
    """Make an error of its message alone, for pickle."""
    return kind.__new__(kind, *args)
