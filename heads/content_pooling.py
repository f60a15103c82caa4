"""Which cells of a map a classifier averages over, as the weights that its graph takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.package.card import TailSpec
from cdvision.photo import Size

Matrices = dict[str, NDArray[Any]]


def pooling_inputs(tail: TailSpec, content: Size, network: Size) -> Matrices:
    """Return what a tail's graphs take beside the latents, with a batch axis of one.

    Args:
        tail: of the card.
        content: (width, height) of the photo inside the network input, pixels.
        network: (width, height) of the network input, padding included.
    """
    stride = tail.settings.get("pool_stride")
    return {} if stride is None else _averages(stride, content, network)


def _averages(stride: int, content: Size, network: Size) -> Matrices:
    """Weights of an average over the photo's cells: padding must not count."""
    rows, columns = (
        _shares(content[axis] / stride, network[axis] // stride)[None, None] for axis in (1, 0)
    )
    return {"rows": rows, "columns": columns}


def _shares(extent: float, count: int) -> NDArray[np.float32]:
    """Share of each of ``count`` cells in the stretch [0, extent): float32, they sum to 1."""
    covered = np.clip(extent - np.arange(count), 0.0, 1.0)
    shares: NDArray[np.float32] = (covered / covered.sum()).astype(np.float32)
    return shares
