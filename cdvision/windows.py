"""Which cells of an image a classifier looks at, as the matrices that its graph multiplies by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.package.card import TailSpec
from cdvision.photo import Size
from cdvision.resampling import resampling_matrix

Matrices = dict[str, NDArray[Any]]


def window_inputs(tail: TailSpec, content: Size, network: Size) -> Matrices:
    """Return what a tail's graphs take beside the latents, with a batch axis of one.

    Args:
        tail: of the card.
        content: (width, height) of the photo inside the network input, pixels.
        network: (width, height) of the network input, padding included.
    """
    if tail.features.cells is not None:
        return _resampled(tail, content, network)
    stride = tail.settings.get("pool_stride")
    return {} if stride is None else _pooled(stride, content, network)


def _resampled(tail: TailSpec, content: Size, network: Size) -> Matrices:
    """Resampling matrices of the central square that a classifier of fixed size looks at.

    Where the square has the classifier's own number of cells, or one more or less, whole cells are
    taken as they are: interpolating between them blurs (ImageNet: 0.84 top-1 where it is 0.87).
    """
    spec = tail.features
    cells = spec.cells or 1
    width = spec.crop * min(content) / spec.stride
    matrices = []
    for extent, count in (
        (content[1] / spec.stride, network[1] // spec.stride),
        (content[0] / spec.stride, network[0] // spec.stride),
    ):
        start, stop = (extent - width) / 2, (extent + width) / 2
        if abs(width - cells) <= 1 and count >= cells:
            start = min(max(0, round((extent - cells) / 2)), count - cells)
            stop = start + cells
        matrices.append(resampling_matrix(count, start, stop, cells)[None])
    return {"rows": matrices[0], "columns": matrices[1]}


def _pooled(stride: int, content: Size, network: Size) -> Matrices:
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
