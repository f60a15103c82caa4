"""How large a network sees a decoded photo, as the matrices that a tail's graph takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError
from cdvision.package.card import TailSpec
from cdvision.photo import Size


def resizing_inputs(
    tail: TailSpec, content: Size, network: Size, size: Size | None = None
) -> dict[str, NDArray[Any]]:
    """Return what a tail's graphs take to enlarge a photo, with a batch axis of one.

    ``rows`` (1, H', H) and ``columns`` (1, W', W) multiply the decoded picture from both sides:
    bilinear interpolation, as Pillow and Detectron2 enlarge. Empty for tails whose card has no
    setting ``resize_multiple``.

    Args:
        tail: of the card.
        content: (width, height) of the photo in the decoded picture, which is at its top left.
        network: (width, height) of the decoded picture.
        size: (width, height) that the photo is to have; the result is padded to a multiple of the
            setting. None: the decoded picture as it is.

    Raises:
        CdvisionError: the tail takes no size, or it is smaller than the photo.
    """
    multiple = tail.settings.get("resize_multiple")
    if multiple is None:
        if size is not None:
            raise CdvisionError("size: this tail gives features of photos as they were coded")
        return {}
    if size is None:
        content = size = network
    if size[0] < content[0] or size[1] < content[1]:
        raise CdvisionError(f"size: expected at least the photo's {content}, found {size}")
    return {
        "rows": interpolation(content[1], size[1], network[1], multiple)[None],
        "columns": interpolation(content[0], size[0], network[0], multiple)[None],
    }


def interpolation(content: int, size: int, network: int, multiple: int) -> NDArray[np.float32]:
    """Return the matrix (padded size, network) that enlarges ``content`` pixels to ``size``.

    >>> interpolation(2, 4, 3, 4)
    array([[1.  , 0.  , 0.  ],
           [0.75, 0.25, 0.  ],
           [0.25, 0.75, 0.  ],
           [0.  , 1.  , 0.  ]], dtype=float32)
    """
    # Pixel centres: place i of the result lies at (i + 1/2) * content / size - 1/2.
    places = (np.arange(size) + 0.5) * content / size - 0.5
    places = places.clip(0, content - 1)
    first = np.floor(places).astype(np.int64)
    second, share = np.minimum(first + 1, content - 1), places - first
    matrix = np.zeros((-(-size // multiple) * multiple, network), np.float32)
    rows = np.arange(size)
    np.add.at(matrix, (rows, first), 1 - share)
    np.add.at(matrix, (rows, second), share)
    return matrix
