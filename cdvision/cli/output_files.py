"""Where a command writes its files: one per input, never over an input, never twice the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from cdvision.cli.input_files import STDIN, InputFile
from cdvision.errors import CdvisionError
from cdvision.whole_files import write_whole


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
        self._read = {os.path.realpath(item.path) for item in inputs if item.path is not None}
        self._written: dict[str, str] = {}

    def place(self, item: InputFile) -> Path:
        """Return where a result belongs."""
        beside = item.path or item.relative
        place = beside if self._folder is None else self._folder / item.relative
        return self._file or place.with_suffix(self._suffix)

    def check(self, item: InputFile) -> Path:
        """Return where a result belongs; raises OutputError where that would lose something."""
        path = self.place(item)
        # Two names may be one file: links and ".." are followed before they are compared.
        resolved = os.path.realpath(path)
        if resolved in self._read:
            raise OutputError(f"{path} is itself an input, and inputs are never overwritten")
        if resolved in self._written:
            raise OutputError(f"{path} already holds the result of {self._written[resolved]}")
        if os.path.exists(path) and not self._force:
            raise OutputError(f"{path} exists; --force replaces it")
        _check_folder(path)
        return path

    def exists(self, item: InputFile) -> bool:
        """Tell whether the result of an input is there from another run."""
        return os.path.exists(self.place(item))

    def write(self, item: InputFile, data: bytes) -> Path:
        """Write the result of one input, whole or not at all, and return its path."""
        path = self.check(item)
        write_whole(path, data)
        self._written[os.path.realpath(path)] = item.name
        return path


def _check_folder(path: Path) -> None:
    """Refuse a file whose folder, or the nearest above it that is there, cannot be written."""
    folder = next(place for place in (*path.absolute().parents,) if os.path.exists(place))
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written: no right to write into {folder}")


def stream_outputs(
    inputs: Sequence[InputFile], output: str | None, *, force: bool
) -> OutputFiles | None:
    """Read `-o` of `encode`: a file, a folder, or `None` for stdout."""
    if output == STDIN or (output is None and [item.path for item in inputs] == [None]):
        if len(inputs) > 1:
            raise click.UsageError("stdout takes one stream; use -o FOLDER for several images.")
        return None
    if output is None:
        return OutputFiles(inputs, suffix=".cdv", force=force)
    path = Path(output)
    # It names a folder where it is one, ends with a slash, or lacks the suffix of a stream.
    if os.path.isdir(path) or output.endswith(("/", os.sep)) or path.suffix.lower() != ".cdv":
        return OutputFiles(inputs, suffix=".cdv", folder=path, force=force)
    if len(inputs) > 1:
        raise click.UsageError(f"{output} takes one stream; use -o FOLDER for several images.")
    return OutputFiles(inputs, suffix=".cdv", file=path, force=force)
