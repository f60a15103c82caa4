"""What may be passed as a stream: bytes, and what holds bytes, but nothing that needs a guess."""

from __future__ import annotations

from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


def byte_view(data: Buffer) -> memoryview:
    """Return a flat view of ``data``, without a copy.

    >>> len(byte_view(b"CDV"))
    3

    Raises:
        TypeError: ``data`` is a path, text, an image array, or anything else that is not a flat
            run of bytes. Guessing here would hash a file name or decode somebody's pixels.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(_refusal(type(data).__name__)) from None
    if view.ndim != 1 or view.format not in ("B", "b", "c") or not view.c_contiguous:
        kind = type(data).__name__
        raise TypeError(_refusal(f"{kind} of shape {view.shape} and element type {view.format!r}"))
    return view.cast("B")


def _refusal(found: str) -> str:
    return (
        f"a stream is bytes (or bytearray, memoryview, flat uint8), not {found}; "
        "read a file first: pathlib.Path(path).read_bytes(), "
        "or use the command line: cdvision inspect FILE"
    )
