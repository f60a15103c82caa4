"""The groups of commands: import a command when it is called, turn an error into one line."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from cdvision.errors import CdvisionError
from cdvision.package.families import commands, imported
from cdvision.tasks import tasks
from cdvision.texts import on_one_line
from cdvision.version import __version__

BAD_INPUT = 2
INTERRUPTED = 130

# Name -> "module:command" below ``cdvision.cli``, and the command's line in `cdvision --help`.
COMMANDS = {
    "encode": ("streams:encode", "Turn images into streams."),
    "reconstruct": ("streams:reconstruct", "Rebuild pictures, where a model can."),
    "analyze": ("analyze:analyze", "Answer for many streams, into one file of results."),
    "inspect": ("streams:inspect", "Show the header of streams; needs no model."),
    "models": ("models:models", "List the models that are installed."),
    "serve": ("serve:serve", "Answer streams over HTTP, with a page to see it."),
    "eval": ("evaluate:evaluate", "Measure accuracy and bytes on labelled photos."),
    "train": ("train:train", "Train a model, and build its package."),
    "fit": ("fit:fit", "Fit a tap: streams then feed a network of your own."),
    "export": ("export:export", "Write a model for other runtimes: ONNX, TensorRT, Triton."),
    "bench": ("bench:bench", "Time the parts, plot rate and accuracy, or fuzz the decoder."),
}


def command_lines() -> dict[str, str]:
    """Return every command's line in `cdvision --help`: behind `encode` stand those of tasks."""
    lines = {name: line for name, (_, line) in COMMANDS.items()}
    asked = {task.name: task.summary for task in tasks().values()}
    return {"encode": lines["encode"], **asked, **lines}


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Turn an import that fails inside into one line that says what to install."""
    try:
        yield
    except ImportError as error:
        raise CdvisionError(
            f"{what} needs {error.name}: install it with `pip install 'cdvision[{extra}]'`"
        ) from error


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of ``command_lines``."""
        return list(command_lines())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command, or make that of a task; None where there is none of that name."""
        found: click.Command | None = None
        if cmd_name in COMMANDS:
            found = imported(f"cdvision.cli.{COMMANDS[cmd_name][0]}")
        elif cmd_name in tasks():
            found = imported("cdvision.cli.answer:task_command")(tasks()[cmd_name])
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(command_lines().items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; an interrupt is one line too."""
        # Here, before click's own main sees it: that would print an empty line first.
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            _say("interrupted")
            ctx.exit(INTERRUPTED)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run one command and exit: 0 done, 2 bad input or usage, 130 interrupted."""
        # Not standalone: whatever is wrong with the input is one line of ours on stderr.
        extra["standalone_mode"] = False
        args = sys.argv[1:] if args is None else list(args)
        try:
            check_arguments(args)
            code = super().main(args, *rest, **extra)
            with told_if_full():
                sys.stdout.flush()
        except (CdvisionError, click.ClickException) as error:
            _say(_one_line(error))
            code = BAD_INPUT
        except OSError as error:
            code = 1
            if error.errno != errno.EPIPE:  # the reader of our output has gone, and knows it
                _say(on_one_line(f"{error.filename or 'cdvision'}: {error.strerror or error}"))
                code = BAD_INPUT
        if code:
            _drop_output()
        sys.exit(code if isinstance(code, int) else 0)


class FamilyGroup(click.Group):
    """A group of commands of its own, and of those that families add under the same name."""

    def __init__(self, *args: Any, group: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._group = group

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the families' commands, then the group's own."""
        return [*commands(self._group), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and import it where it is a family's."""
        target = commands(self._group).get(cmd_name)
        return super().get_command(ctx, cmd_name) if target is None else imported(target)


class FullOutput(click.ClickException):
    """What a command says cannot be written."""


@contextmanager
def told_if_full() -> Iterator[None]:
    """Turn a failure to write on stdout or stderr into an error that no input is blamed for."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise FullOutput(f"the output cannot be written: {error.strerror or error}") from error


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse empty arguments: an unset variable of a shell would mean the current folder."""
    empty = [text for text in arguments if not text or re.fullmatch(r"--[a-z-]+=", text)]
    if empty:
        told = f"expected no empty argument, found {empty[0]!r} (an unset variable?)."
        raise click.UsageError(told)


def _drop_output() -> None:
    """Let what is buffered go nowhere where it cannot be written: Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_output() -> None:
    """Make stdout and stderr take every text: some are closed, some are no UTF-8."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _one_line(error: CdvisionError | click.ClickException) -> str:
    """Return the message on one line, with the way to the help page after a usage error."""
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    message = on_one_line(" ".join(message.split()))
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message} See '{error.ctx.command_path} --help'."
    return message


def _say(message: str) -> None:
    click.echo(f"cdvision: {message}", err=True)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Inputs are files, folders (searched to the bottom), globs, or - for stdin. "
    "Exit status: 0 done, 2 bad input, 130 interrupted.",
)
@click.version_option(__version__, prog_name="cdvision", message="%(prog)s %(version)s")
def command_line() -> None:
    """Encode images once, then answer questions from the streams without rebuilding pixels."""


def main() -> NoReturn:
    """Run the command line; the entry point of the `cdvision` script."""
    _prepare_output()
    command_line.main(prog_name="cdvision")
