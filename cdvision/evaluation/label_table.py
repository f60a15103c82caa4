"""Tables of labels: a csv with a ``file`` column, and columns that say what is in each photo."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from cdvision.errors import CdvisionError
from cdvision.evaluation.notices import listed

FILE = "file"
LABELS = ("imagenet_class", "class", "label")
Row = dict[str, str]


def read_rows(table: Path, where: Mapping[str, str]) -> list[Row]:
    """Return the rows that have the wanted values; at least one.

    Raises:
        CdvisionError: no csv with a ``file`` column, an unknown column in ``where``, no such row.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        raise CdvisionError(f"{table}: not a csv that can be read ({error})") from error
    for column in (FILE, *where):
        if column not in columns:
            raise CdvisionError(f"{table}: expected a column {column!r}, found {listed(columns)}")
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise CdvisionError(f"{table}: row {number + 1}: expected {len(columns)} cells")
    kept = [row for row in rows if all(row[column] == value for column, value in where.items())]
    if not kept:
        wanted = " and ".join(f"{column}={value}" for column, value in where.items())
        raise CdvisionError(f"{table}: no row{f' with {wanted}' if wanted else ''}")
    return kept


def label_column(table: Path, columns: Sequence[str], wanted: str | None) -> str:
    """Return the column that holds the classes; raises CdvisionError where none is plain."""
    others = [column for column in columns if column != FILE]
    if wanted is not None and wanted in others:
        return wanted
    usual = [column for column in LABELS if column in others]
    if wanted is None and (usual or len(others) == 1):
        return (usual or others)[0]
    expected = repr(wanted) if wanted is not None else f"one of {', '.join(LABELS)}"
    raise CdvisionError(f"{table}: expected a column {expected}, found {listed(others)}")
