"""Options of commands that come from the table of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import click

from cdvision.tasks import Task, TaskOption


class TaskCommand(click.Command):
    """A command whose first options come from the table of tasks, as it is when it runs."""

    def __init__(
        self, *args: Any, from_table: Callable[[], list[click.Option]], **others: Any
    ) -> None:
        super().__init__(*args, **others)
        self._from_table = from_table

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters of the command."""
        return [*self._from_table(), *super().get_params(ctx)]


class FiniteRange(click.FloatRange):
    """A real number within limits; neither NaN, which is in every range, nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"expected a finite number, found {value}.", param, ctx)
        return number


def batched_options(tasks: Iterable[Task]) -> list[click.Option]:
    """Return what tasks can be asked with in batches, each name once."""
    # The last of a name wins on the command line; each task checks the value by its own.
    named = {option.name: option for task in tasks for option in task.options if option.batched}
    return [_click_option(option) for option in named.values()]


def task_choice(tasks: Iterable[Task], help: str) -> click.Option:
    """Return the option ``--task``, which takes some tasks and may be repeated."""
    names = click.Choice([task.name for task in tasks])
    return click.Option(["--task", "tasks"], multiple=True, type=names, help=help)


def _click_option(option: TaskOption) -> click.Option:
    flags = [f"--{name.replace('_', '-')}" for name in (option.name, *option.aliases)]
    if not isinstance(option.default, bool):
        kind: Any = click.IntRange if isinstance(option.default, int) else FiniteRange
        return click.Option(
            [*flags, option.name],
            type=kind(option.low, option.high),
            default=option.default,
            show_default=True,
            help=option.help,
        )
    # A flag that is on needs a way to be switched off.
    if option.default:
        flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
    return click.Option(
        [*flags, option.name], is_flag=True, default=option.default, help=option.help
    )
