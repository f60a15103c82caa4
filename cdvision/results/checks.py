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
    found = f"a {type(array).__name__}"
    if isinstance(array, np.ndarray):
        # an abstract type such as np.str_ stands for texts of every width
        right_dtype = array.dtype.type is dtype or np.issubdtype(array.dtype, dtype)
        right_shape = array.ndim == len(shape) and all(
            isinstance(want, str) or have == want
            for have, want in zip(array.shape, shape, strict=True)
        )
        if right_dtype and right_shape:
            return
        found = f"an np.ndarray of {array.dtype} with shape {array.shape}"
    wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
    raise ResultError(
        f"{name} must be a {len(shape)}D np.ndarray of {dtype.__name__} with shape ({wanted}), "
        f"but got {found}"
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
