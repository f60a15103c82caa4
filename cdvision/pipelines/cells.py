"""Cells of tables that should hold the bytes of a file: bytes, or one record's error."""

from __future__ import annotations

from math import isnan
from typing import Any

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import inspect

# Kinds of columns whose cells all have one width, and what that does to bytes.
STRIPPED = "fixed-width bytes of numpy lose zeros at their end: use a column of objects"
PADDED = "cells of fixed-size binary carry zeros at their end: use a column of binary"
_HINTS = {
    "str": "; a path is not read here: read the file into the table",
    "dict": "; name the field that holds them, or take it out",
}


def width_note(column: Any) -> str | None:
    """Say what the fixed width of a column (numpy, Arrow) does to bytes; None for any other.

    >>> import numpy as np
    >>> width_note(np.array([b"ab", b"c"])) == STRIPPED, width_note([b"ab"])
    (True, None)
    """
    if getattr(getattr(column, "dtype", None), "kind", "") == "S":
        return STRIPPED
    return PADDED if str(getattr(column, "type", "")).startswith("fixed_size_binary") else None


def cell_bytes(cell: Any, place: str) -> bytes | CdvisionError:
    """Return the bytes of a cell of column ``place``, or the error of its record.

    >>> cell_bytes(bytearray(b"CDV"), "stream")
    b'CDV'
    >>> cell_bytes(None, "stream")
    CdvisionError('stream: expected the bytes of a file, found no value')
    """
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    kind = type(cell).__name__
    found = "no value" if is_missing(cell) else f"{kind}{_HINTS.get(kind, '')}"
    return CdvisionError(f"{place}: expected the bytes of a file, found {found}")


def cell_stream(cell: Any, place: str, note: str | None) -> bytes | CdvisionError:
    """Return the bytes of a stream; ``note`` says what its column's width does to bytes.

    A stream may end after a layer: one that lost its last zeros could pass for one that was cut,
    so of a column with a note only whole streams are taken.
    """
    found = cell_bytes(cell, place)
    if note is None or isinstance(found, CdvisionError):
        return found
    try:
        told = inspect(found)
        whole = told.complete and not told.trailing_bytes
    except BitstreamError:
        whole = False
    return found if whole else CdvisionError(f"{place}: not a whole stream, and {note}")


def cell_key(cell: Any, number: int | str) -> str:
    """Return the key of a row: its cell as text, its number where there is none."""
    return str(number) if is_missing(cell) else str(cell)


def is_missing(cell: Any) -> bool:
    """Tell whether a cell holds None, NaN, or pandas' NaT or NA."""
    kinds = ("NoneType", "NaTType", "NAType")
    return type(cell).__name__ in kinds or (isinstance(cell, float) and isnan(cell))
