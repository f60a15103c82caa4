"""What the answers share: arrays with one entry a row, checked, compared and told as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from cdvision.optional_imports import import_optional
from cdvision.results.checks import check_array, check_same_length

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Self

Row = TypeVar("Row", bound=NamedTuple)


class AnswerRows(Generic[Row]):
    """Base of an answer: a frozen dataclass of arrays.

    Attributes:
        COLUMNS: shape and dtype of each array; all have the length of the first.
        ROW: what one row is, its fields in the order of the columns.
        KEY: name of the rows in ``to_dict``.
        DIGITS: of real numbers in ``to_dict``.
    """

    COLUMNS: ClassVar[Mapping[str, tuple[tuple[int | str, ...], type[np.generic]]]]
    ROW: ClassVar[type[Any]]
    KEY: ClassVar[str]
    DIGITS: ClassVar[int] = 4

    def __post_init__(self) -> None:
        for name, (shape, dtype) in self.COLUMNS.items():
            check_array(name, getattr(self, name), shape=shape, dtype=dtype)
        first, *others = self.COLUMNS
        check_same_length(len(self), first, **{name: getattr(self, name) for name in others})

    def __len__(self) -> int:
        return len(getattr(self, next(iter(self.COLUMNS))))

    def __iter__(self) -> Iterator[Row]:
        columns = [getattr(self, name).tolist() for name in self.COLUMNS]
        return (self.ROW(*row) for row in zip(*columns, strict=True))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        # array_equal compares what is no array, such as an image size or masks, as objects
        own, others = vars(self), vars(other)
        return all(np.array_equal(own[name], others[name]) for name in own)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, real numbers rounded."""
        rows = [
            {
                name: round(value, self.DIGITS) if isinstance(value, float) else value
                for name, value in row.items()
            }
            for row in self.to_rows()
        ]
        return {self.KEY: rows}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the rows as entries of a table, unrounded."""
        return [row._asdict() for row in self]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from what `to_dict` returned."""
        return cls(**cls._arrays(values[cls.KEY]))

    @classmethod
    def _arrays(cls, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        # the shape must be named: a list without rows would make (0,) of (n, 4)
        return {
            name: np.array([row[name] for row in rows], dtype).reshape(len(rows), *shape[1:])
            for name, (shape, dtype) in cls.COLUMNS.items()
        }

    def to_json(self) -> str:
        """Return `to_dict` as one compact line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Rebuild from what `to_json` returned."""
        return cls.from_dict(json.loads(text))

    def to_pandas(self) -> pd.DataFrame:
        """Return a pandas table of the rows."""
        pandas = import_optional("pandas", "to_pandas")
        columns = self._table_columns()
        for name, values in columns.items():
            # Left alone, text becomes a column of fixed width, which few tools read, and an empty
            # list one of objects.
            if values.dtype.kind == "U":
                columns[name] = pandas.Series(values.tolist(), dtype="str")
        table: pd.DataFrame = pandas.DataFrame(columns)
        return table

    def _table_columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.COLUMNS}


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, limit: int = 20) -> str:
    """Align columns, the first to the left; rows beyond the limit are counted in one last line.

    >>> print(text_table(["class", "score"], [["cat", "0.91"], ["zebra", "0.07"]]))
    class  score
    cat     0.91
    zebra   0.07
    """
    shown = [header, *rows[:limit]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for first, *others in shown:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    if len(rows) > limit:
        lines.append(f"... and {len(rows) - limit} more")
    return "\n".join(lines)
