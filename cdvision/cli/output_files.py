"""Where a command writes its files: one per input, never over an input, never twice the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from cdvision.cli.input_files import STDIN, InputFile
from cdvision.errors import CdvisionError


class OutputError(CdvisionError):
    """A result has nowhere to go without destroying something."""


class OutputFiles:
    """Maps inputs, none of which is ever written to, to the files of their results.

    Results go to the one ``file``, or below ``folder`` under their relative names, or else beside
    each input; ``force`` replaces what exists.
    """

    def __init__(
        self,
        inputs: Sequence[InputFile],
        *,
        suffix: str,
        folder: Path | None = None,
        file: Path | None = None,
        force: bool = False,
    ) -> None:
        self._suffix, self._folder, self._file, self._force = suffix, folder, file, force
        self._read = {item.path.resolve() for item in inputs if item.path is not None}
        self._written: dict[Path, str] = {}

    def path(self, item: InputFile) -> Path:
        """Return where the result of one input belongs."""
        if self._file is not None:
            return self._file
        if self._folder is not None:
            return self._folder / item.relative.with_suffix(self._suffix)
        return (item.path or item.relative).with_suffix(self._suffix)

    def check(self, item: InputFile) -> Path:
        """Return `path(item)`, or raise OutputError where writing there would lose something."""
        path = self.path(item)
        resolved = path.resolve()
        if resolved in self._read:
            raise OutputError(f"{path} is itself an input, and inputs are never overwritten")
        if resolved in self._written:
            raise OutputError(f"{path} already holds the result of {self._written[resolved]}")
        if path.exists() and not self._force:
            raise OutputError(f"{path} exists; --force replaces it")
        return path

    def write(self, item: InputFile, data: bytes) -> Path:
        """Write the result of one input, whole or not at all, and return its path."""
        path = self.check(item)
        write_whole(path, data)
        self._written[path.resolve()] = item.name
        return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renaming within a folder is atomic: nobody sees half a file, whenever we are stopped.
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def stream_outputs(
    inputs: Sequence[InputFile], output: str | None, *, force: bool
) -> OutputFiles | None:
    """Read `-o` of `encode`: a file, a folder, or `None` for stdout.

    It names a folder where it is one, ends with a slash, lacks the suffix `.cdv`, or has to hold
    more than one stream.
    """
    if output == STDIN or (output is None and [item.path for item in inputs] == [None]):
        if len(inputs) > 1:
            raise click.UsageError("stdout takes one stream; use -o FOLDER for several images.")
        return None
    if output is None:
        return OutputFiles(inputs, suffix=".cdv", force=force)
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)) or path.suffix.lower() != ".cdv":
        return OutputFiles(inputs, suffix=".cdv", folder=path, force=force)
    if len(inputs) > 1:
        raise click.UsageError(f"{output} takes one stream; use -o FOLDER for several images.")
    return OutputFiles(inputs, suffix=".cdv", file=path, force=force)
