"""Prints what a command says: answers on stdout, bad inputs on stderr, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from cdvision.cli.command_line import BAD_INPUT
from cdvision.cli.input_files import InputFile
from cdvision.errors import CdvisionError, EngineError, ModelError


class Printer:
    """Prints the outcome of each input at once, as text or JSON lines, and counts the bad ones."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.failed = 0

    def answer(self, name: str, record: Mapping[str, Any], text: str) -> None:
        """Print one answer, as a JSON line or as text."""
        line = json.dumps({"file": name, **record}) if self.as_json else text
        _write(line, to_stderr=False)

    def failure(self, name: str, error: CdvisionError | OSError) -> None:
        """Print one bad input; the command will exit with 2."""
        self.failed += 1
        _write(f"cdvision: {name}: {_reason(error)}", to_stderr=True)

    def each(self, inputs: Sequence[InputFile], action: Callable[[InputFile], None]) -> None:
        """Call `action` on every input; report bad ones, go on, exit with 2 at the end."""
        for item in _with_progress(inputs):
            try:
                action(item)
            except (BrokenPipeError, EngineError, ModelError):
                raise  # no input is to blame, and the next one would fail in the same way
            except (CdvisionError, OSError) as error:
                self.failure(item.name, error)
        if self.failed:
            raise click.exceptions.Exit(BAD_INPUT)


def indented(text: str) -> str:
    """Return the text with every line moved two columns to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def _reason(error: CdvisionError | OSError) -> str:
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split())


def _with_progress(inputs: Sequence[InputFile]) -> Any:
    if len(inputs) < 2 or not sys.stderr.isatty():
        return inputs
    from tqdm import tqdm

    return tqdm(inputs, file=sys.stderr, unit="file", leave=False, dynamic_ncols=True)


def _write(line: str, *, to_stderr: bool) -> None:
    """Write a line above the progress bar where there is one; flush, for readers in a pipe."""
    stream = sys.stderr if to_stderr else sys.stdout
    if "tqdm" in sys.modules and stream.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=stream)
    else:
        click.echo(line, err=to_stderr)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line, with the key 'file'."
)
