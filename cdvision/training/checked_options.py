"""Options of stages as frozen dataclasses: a field's annotation says what it may hold.

::

    @dataclass(frozen=True)
    class StepOptions(CheckedOptions):
        learning_rate: Rate = 1e-3

A value out of range is refused when the dataclass is made. The command line reads names, types,
ranges and defaults from the same place, and help texts from the docstring's ``Attributes:``; see
``cdvision.cli.dataclass_options``.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from cdvision.errors import CdvisionError

MANY = -1  # number of values of ``tuple[X, ...]``


@dataclass(frozen=True)
class Range:
    """What a number may be, or each number of a tuple."""

    low: float
    high: float | None = None  # any where None
    above: bool = False  # ``low`` itself is refused
    rising: bool = False  # the numbers of a tuple must rise

    def __contains__(self, value: Any) -> bool:
        """Tell whether a number, or a tuple of them, is allowed; NaN and infinity never are."""
        numbers = value if isinstance(value, tuple) else (value,)
        high = sys.float_info.max if self.high is None else self.high
        fit = all((self.low < n if self.above else self.low <= n) and n <= high for n in numbers)
        return fit and not (self.rising and list(numbers) != sorted(set(numbers)))

    def __str__(self) -> str:
        """Say what is expected."""
        least = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        most = "" if self.high is None else f" and at most {self.high:g}"
        return least + most + (", rising" if self.rising else "")


Count = Annotated[int, Range(1)]
Weight = Annotated[float, Range(0)]
Rate = Annotated[float, Range(0, above=True)]
# What quality 1 and quality 8 aim at; the others lie between, in equal ratios.
Ends = Annotated[tuple[float, float], Range(0, above=True, rising=True)]


@dataclass(frozen=True)
class CheckedOptions:
    """Base of options: refuses a value that its field does not allow."""

    def __post_init__(self) -> None:
        for field in option_fields(type(self)):
            field.check(getattr(self, field.name))


@dataclass(frozen=True)
class OptionField:
    """One field of an options dataclass, as its annotation and its docstring describe it."""

    name: str
    kind: type  # of one value: bool, int, float, str or Path
    count: int  # of values: 1, that of a fixed tuple, or ``MANY``
    choices: tuple[Any, ...]  # the values allowed; any where empty
    range: Range | None  # of the numbers; any where None
    optional: bool  # None is allowed
    default: Any  # ``dataclasses.MISSING`` where there is none
    help: str  # its entry under ``Attributes:``

    def check(self, value: Any) -> None:
        """Raise CdvisionError where the field does not allow a value."""
        if value is None and self.optional:
            return
        if self.choices and value not in self.choices:
            expected = f"one of {', '.join(map(str, self.choices))}"
        elif self.range is not None and value not in self.range:
            expected = str(self.range)
        else:
            return
        raise CdvisionError(f"{option_name(self.name)}: expected {expected}, found {value}")


def option_name(name: str) -> str:
    """Return the option of a field.

    >>> option_name("learning_rate")
    '--learning-rate'
    """
    return f"--{name.replace('_', '-')}"


def option_fields(options: type) -> list[OptionField]:
    """Describe the fields of an options dataclass; raises TypeError for what no option can be."""
    hints, helps = get_type_hints(options, include_extras=True), _attribute_texts(options)
    return [
        _described(field.name, hints[field.name], field.default, helps.get(field.name, ""))
        for field in fields(options)
    ]


def _described(name: str, hint: Any, default: Any, text: str) -> OptionField:
    hint, optional = _without_none(hint)
    bounds = None
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        bounds = next((mark for mark in marks if isinstance(mark, Range)), None)
    count, choices = 1, tuple[Any, ...]()
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        hint, count = inner[0], MANY if inner[-1] is Ellipsis else len(inner)
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        hint = type(choices[0])
    if hint not in (bool, int, float, str, Path):
        raise TypeError(f"{name}: no option can be {hint}")
    return OptionField(name, hint, count, choices, bounds, optional, default, text)


def _without_none(hint: Any) -> tuple[Any, bool]:
    """Take ``X | None`` apart: X, and whether None is allowed."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint, False
    kept = [part for part in get_args(hint) if part is not type(None)]
    if len(kept) != 1:
        raise TypeError(f"no option can be {hint}")
    return kept[0], True


def _attribute_texts(options: type) -> dict[str, str]:
    """Read the entries under ``Attributes:`` of a dataclass and its bases, the nearest first."""
    texts: dict[str, str] = {}
    for owner in reversed(options.__mro__):
        section = inspect.cleandoc(owner.__doc__ or "").partition("\nAttributes:\n")[2]
        # An entry begins four columns in; its further lines stand deeper, another section less.
        section = re.split(r"\n(?=\S)", section)[0]
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    return texts
