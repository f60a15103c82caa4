"""Names and choices as people give them: what is no UTF-8, and one name where several may stand."""

from __future__ import annotations

import os
from typing import Any


def printable(text: str) -> str:
    r"""Return a text that every file and program can hold: bytes that are no UTF-8 are escaped.

    Linux hands over such bytes of a file's name as lone surrogates, which no encoding takes.

    >>> printable("caf\udce9.jpg")
    'caf\\xe9.jpg'
    """
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def on_one_line(text: str) -> str:
    r"""Return a text that leaves a terminal in peace: printable, its control characters escaped.

    >>> on_one_line("two\nlines")
    'two\\nlines'
    """
    plain = (c if c.isprintable() or c == " " else repr(c)[1:-1] for c in printable(text))
    return "".join(plain)


def several(given: Any) -> tuple[Any, ...]:
    """Return what was given as one name or as several: a text is one, not its letters.

    >>> several("detect"), several(["detect", "classify"])
    (('detect',), ('detect', 'classify'))
    """
    if isinstance(given, (str, bytes, os.PathLike)):
        return (given,)
    return tuple(given)
