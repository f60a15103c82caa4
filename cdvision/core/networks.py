"""Integer networks and integer attention: what chooses tables, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_void_p
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.core.library import LIBRARY, Handle, LayerSettings, address, check

Integers = NDArray[np.int32]

# Weights of a query's keys sum to about 2^8.
WEIGHT_BITS = 8


class LayerArrays(NamedTuple):
    """One layer as ``IntegerLayer`` has it."""

    weight: NDArray[np.int8]  # (out, channels, kernel, kernel)
    bias: NDArray[np.int32]  # (qualities, out)
    shift: int
    low: int
    high: int
    upsample: int


def new_network(layers: Sequence[LayerArrays], bound: int) -> Handle:
    """Make a network of layers; raises CoreError where C's own proof of exact sums fails."""
    # What C copies has to stay until it has.
    kept = [
        (np.ascontiguousarray(one.weight), np.ascontiguousarray(one.bias, np.int32))
        for one in layers
    ]
    settings = (LayerSettings * len(layers))(
        *(
            LayerSettings(
                address(weight), address(bias), *weight.shape[:3], len(bias),
                one.shift, one.low, one.high, one.upsample,
            )
            for one, (weight, bias) in zip(layers, kept, strict=True)
        )
    )  # fmt: skip
    made = c_void_p()
    check(LIBRARY.cdv_network_new(settings, len(layers), bound, byref(made)))
    return Handle(made, LIBRARY.cdv_network_free)


def planes_of(
    network: Handle, z: NDArray[np.integer], quality: int, shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Run a network on ``z`` (channels, h, w); of its output the top left ``shape``, (C, H, W)."""
    x, planes = np.ascontiguousarray(z, np.int32), np.empty(shape, np.uint8)
    inputs = address(x), *x.shape[1:], quality
    check(LIBRARY.cdv_network_planes(network.pointer, *inputs, *shape[1:], address(planes)))
    return planes


def cells_of(network: Handle, x: Integers, quality: int, upsample: int, outs: int) -> Integers:
    """Run a network on ``x`` (h, w, channels), to (u * h, u * w, outs)."""
    x = np.ascontiguousarray(x, np.int32)
    cells = np.empty((upsample * x.shape[0], upsample * x.shape[1], outs), np.int32)
    inputs = address(x), *x.shape[:2], quality
    check(LIBRARY.cdv_network_cells(network.pointer, *inputs, address(cells)))
    return cells


def attend(
    projected: Integers, known: int, heads: int, shift: int, exponents: NDArray[np.uint16]
) -> Integers:
    """Return what each token finds among the first ``known`` ones, (T, width).

    ``projected`` (T, 3 * width) are queries, keys, values; see ``IntegerBlock`` for the others.
    """
    tokens, width = len(projected), projected.shape[1] // 3
    attended = np.empty((tokens, width), np.int32)
    sizes = tokens, width, known, heads, shift
    table = address(exponents), len(exponents)
    check(LIBRARY.cdv_attend(address(projected), *sizes, *table, address(attended)))
    return attended
