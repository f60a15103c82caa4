"""Checks on the arrays of a result: what was expected, what was found."""

from __future__ import annotations

from typing import Any

import numpy as np

from cdvision.errors import CdvisionError


class ResultError(CdvisionError, ValueError):
    """A result was built from, or asked for, something that does not fit together."""


def check_array(
    name: str, array: object, *, shape: tuple[int | str, ...], dtype: type[np.generic]
) -> None:
    """Raise ResultError unless `array` has this dtype and this shape.

    Args:
        name: the field's name, for the message.
        array: what was given for it.
        shape: one entry per axis; a letter such as ``"n"`` stands for any length.
        dtype: a concrete scalar type, or an abstract one such as ``np.str_``.
    """
    if _fits(array, shape, dtype):
        return
    wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    raise ResultError(
        f"{name} must be a {len(shape)}D np.ndarray of {dtype.__name__} with shape ({wanted}), "
        f"but got {_in_words(array)}"
    )


def check_same_length(expected: int, owner: str, **fields: Any) -> None:
    """Raise ResultError unless every field has as many entries as `owner` has rows."""
    for name, values in fields.items():
        if len(values) != expected:
            raise ResultError(
                f"{name} must have as many entries as {owner}, expected {expected}, "
                f"but got {len(values)}"
            )


def check_image_size(image_size: object) -> tuple[int, int]:
    """Return (width, height) as two Python ints, or raise ResultError."""
    if isinstance(image_size, tuple | list) and len(image_size) == 2:
        width, height = image_size
        if all(isinstance(side, int | np.integer) and side > 0 for side in (width, height)):
            return int(width), int(height)
    raise ResultError(
        f"image_size must be two positive integers (width, height), but got {image_size!r}"
    )


def _fits(array: object, shape: tuple[int | str, ...], dtype: type[np.generic]) -> bool:
    if not isinstance(array, np.ndarray):
        return False
    if array.dtype.type is not dtype and not np.issubdtype(array.dtype, dtype):
        return False
    pairs = zip(array.shape, shape, strict=False)
    return array.ndim == len(shape) and all(
        isinstance(want, str) or have == want for have, want in pairs
    )


def _in_words(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an np.ndarray of {value.dtype} with shape {value.shape}"
    return f"a {type(value).__name__}"
