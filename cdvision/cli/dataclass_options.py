"""Turns the fields of options dataclasses into options of a command.

::

    @click.command()
    @dataclass_options(options=RowsOptions)      # --learning-rate FLOAT  Of Adam.  [default: 0.001]
    def rows(options: RowsOptions) -> None: ...

A field's name, type, range and default are those of its option, and its entry under the class's
``Attributes:`` is the help. ``bool`` fields are flags (a pair of them where the default is not
False), ``Literal`` fields are choices, ``Path`` fields must exist, ``tuple[X, X]`` fields take two
values, and ``tuple[X, ...]`` fields are given several times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from cdvision.cli.task_options import FiniteRange
from cdvision.errors import CdvisionError
from cdvision.training.checked_options import (
    MANY,
    CheckedOptions,
    OptionField,
    option_fields,
    option_name,
)

Command = TypeVar("Command", bound=Callable[..., Any])
Part = CheckedOptions | type[CheckedOptions]
EXISTING = click.Path(exists=True, path_type=Path)


def dataclass_options(**parts: Part) -> Callable[[Command], Command]:
    """Give a command the options of dataclasses, and the filled dataclasses as its arguments.

    A part may be one with defaults of the command. A field that two have is one option for both.
    """
    described = {name: _fields_of(part) for name, part in parts.items()}
    by_name = {field.name: field for fields in described.values() for field in fields}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def filled(**given: Any) -> Any:
            values = {name: _read(field, given.pop(name)) for name, field in by_name.items()}
            for name, part in parts.items():
                given[name] = _made(part, {f.name: values[f.name] for f in described[name]})
            return command(**given)

        # click notes each option on the function, the last one first.
        for field in reversed(by_name.values()):
            _option(field)(filled)
        return filled  # type: ignore[return-value]

    return decorate


def _fields_of(part: Part) -> list[OptionField]:
    if isinstance(part, type):
        return option_fields(part)
    return [
        replace(field, default=getattr(part, field.name)) for field in option_fields(type(part))
    ]


def _made(part: Part, values: dict[str, Any]) -> CheckedOptions:
    """Make the dataclass; options that do not go together are an error of usage."""
    try:
        return (part if isinstance(part, type) else type(part))(**values)
    except CdvisionError as error:
        raise click.UsageError(str(error)) from error


def _read(field: OptionField, value: Any) -> Any:
    # A choice is text on the command line, but need not be in the dataclass.
    return {str(choice): choice for choice in field.choices}.get(value, value)


def _option(field: OptionField) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    name, help_text = option_name(field.name), field.help[:1].upper() + field.help[1:]
    common: dict[str, Any] = {"help": help_text.replace("``", "`")}
    if field.default is MISSING:
        common["required"] = True
    elif field.default is not None:
        default = str(field.default) if field.choices else field.default
        shown = field.default is not False and field.default != ()
        common |= {"default": default, "show_default": shown}
    # A flag that is on, or that must be chosen, needs a way to be switched off.
    if field.kind is bool:
        pair = name if field.default is False else f"{name}/--no-{name.removeprefix('--')}"
        return click.option(pair, field.name, is_flag=True, **{"default": None, **common})
    many = field.count == MANY
    common |= {"multiple": many, "nargs": 1 if many else field.count}
    return click.option(name, field.name, type=_type_of(field), **common)


def _type_of(field: OptionField) -> Any:
    """Return click's type of one value."""
    if field.choices:
        return click.Choice([str(choice) for choice in field.choices])
    if field.kind is Path:
        return EXISTING
    if field.range is None or field.kind not in (int, float):
        return field.kind
    bounds = field.range.low, field.range.high, field.range.above
    return (click.IntRange if field.kind is int else FiniteRange)(*bounds)  # type: ignore[arg-type]
