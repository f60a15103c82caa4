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

    ``content`` and ``network`` are (width, height) of the photo and of the network input, pixels.
    """
    stride = tail.settings.get("pool_stride")
    if stride is None:
        return {}
    matrices = {}
    for axis, name in ((1, "rows"), (0, "columns")):
        # Each cell counts by the part of it that the photo covers: padding must not count.
        places = np.arange(network[axis] // stride)
        covered = np.clip(content[axis] / stride - places, 0.0, 1.0)
        matrices[name] = (covered / covered.sum()).astype(np.float32)[None, None]
    return matrices
