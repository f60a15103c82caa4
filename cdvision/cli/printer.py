"""Prints what a command says: answers on stdout, bad inputs on stderr, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, TypeVar

import click

from cdvision.cli.command_line import BAD_INPUT, told_if_full
from cdvision.cli.input_files import InputFile
from cdvision.errors import CdvisionError, EngineError, ModelError
from cdvision.texts import on_one_line, printable

Item = TypeVar("Item")


class Printer:
    """Prints the outcome of each input at once, as text or JSON lines, and counts the bad ones."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.failed = 0

    def answer(self, name: str, record: Mapping[str, Any], text: str) -> None:
        """Print one answer, as a JSON line or as text."""
        line = json.dumps({"file": printable(name), **record}) if self.as_json else text
        _write(printable(line), to_stderr=False)

    def failure(self, name: str, error: CdvisionError | OSError) -> None:
        """Print one bad input; the command will exit with 2."""
        self.failed += 1
        # an OSError's own text has its number and the path too, which stands here already
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _write(on_one_line(f"cdvision: {name}: {' '.join(told.split())}"), to_stderr=True)

    def each(self, inputs: Sequence[InputFile], action: Callable[[InputFile], None]) -> None:
        """Call `action` on every input; report bad ones, go on, exit with 2 at the end."""
        for item in with_progress(inputs, "file"):
            try:
                action(item)
            except (BrokenPipeError, EngineError, ModelError):
                # No input is to blame, and the next one would fail in the same way.
                raise
            except (CdvisionError, OSError) as error:
                self.failure(item.name, error)
        if self.failed:
            raise click.exceptions.Exit(BAD_INPUT)


def indented(text: str) -> str:
    """Return the text with every line moved two columns to the right."""
    return "\n".join(f"  {line}" for line in text.splitlines())


def with_progress(items: Iterable[Item], unit: str) -> Iterable[Item]:
    """Return the items, with a progress bar where there are several and a person watches."""
    single = isinstance(items, Sized) and len(items) < 2
    if single or not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    shown: Iterable[Item] = tqdm(items, unit=unit, leave=False, dynamic_ncols=True)
    return shown


def _write(line: str, *, to_stderr: bool) -> None:
    # Above the progress bar where there is one; click.echo flushes, for readers in a pipe.
    stream = sys.stderr if to_stderr else sys.stdout
    with told_if_full():
        if "tqdm" in sys.modules and stream.isatty():
            from tqdm import tqdm

            tqdm.write(line, file=stream)
        else:
            click.echo(line, err=to_stderr)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line, with the key 'file'."
)
