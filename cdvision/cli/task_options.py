"""Options of commands that come from the table of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def batched_options(tasks: Iterable[Task]) -> list[click.Option]:
    """Return what tasks can be asked with in batches, each name once."""
    named = {option.name: option for task in tasks for option in task.options if option.batched}
    return [_click_option(option) for option in named.values()]


def task_choice(tasks: Iterable[Task], help: str) -> click.Option:
    """Return the option ``--task``, which takes some tasks and may be repeated."""
    names = click.Choice([task.name for task in tasks])
    return click.Option(["--task", "tasks"], multiple=True, type=names, help=help)


def _click_option(option: TaskOption) -> click.Option:
    flags = [f"--{name.replace('_', '-')}" for name in (option.name, *option.aliases)]
    if not isinstance(option.default, bool):
        kind: Any = click.IntRange if isinstance(option.default, int) else click.FloatRange
        return click.Option(
            [*flags, option.name],
            type=kind(option.low, option.high),
            default=option.default,
            show_default=True,
            help=option.help,
        )
    if option.default:  # there has to be a way to switch it off
        flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
    return click.Option(
        [*flags, option.name], is_flag=True, default=option.default, help=option.help
    )
