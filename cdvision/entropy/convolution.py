"""The compiled loops of the integer hyper-network.

Loops of ours and not BLAS calls, for one reason: a BLAS library splits a product of this size
over its own threads, which then fight with the engine's threads for the cores. On a busy 2-core
machine that took 36 ms where one thread takes half a millisecond. The numbers are the same either
way: every partial sum is an integer below 2^24 (see ``integer_network``), so neither the order nor
a fused multiply-add can change them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.kernels import compiled

Array = NDArray[np.float32]
Four = tuple[np.float32, np.float32, np.float32, np.float32]

_MAP = "Array(float32, 3, 'C', readonly=True)"
_MATRIX = "Array(float32, 2, 'C', readonly=True)"
_VECTOR = "Array(float32, 1, 'C', readonly=True)"
_FOUR = "UniTuple(float32, 4)"


@compiled(f"{_FOUR}({_VECTOR}, uint64)")
def _four(values: Array, place: int) -> Four:
    return values[place], values[place + 1], values[place + 2], values[place + 3]


@compiled(f"float32({_FOUR}, {_FOUR})", fuse=True)
def _dot(a: Four, b: Four) -> np.float32:
    return (a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3])


@compiled(f"uint64({_MAP}, int64, int64, int64, int64, float32[:, ::1], uint64[::1])")
def _gather_used(
    padded: Array,
    row: int,
    left: int,
    right: int,
    kernel: int,
    pair: Array,
    lines: NDArray[np.uint64],
) -> np.uint64:
    """Gather what the kernel sees at two columns of a row, without what is zero at both.

    Writes the values into ``pair`` (2, ...) and each one's row of the weights into ``lines``;
    returns how many there are. Three zeros follow them.
    """
    channels = padded.shape[2]
    first, second, used = pair[0], pair[1], np.uint64(0)
    for y in range(kernel):
        line, seen = padded[row + y].reshape(-1), kernel * channels
        a, b = line[left * channels :], line[right * channels :]
        for place in range(seen):
            first[used], second[used] = a[place], b[place]
            lines[used] = y * seen + place
            used += np.uint64((a[place] != 0) | (b[place] != 0))
    first[used : used + np.uint64(3)] = 0
    second[used : used + np.uint64(3)] = 0
    return used


@compiled(f"float32[:, :, ::1]({_MAP}, int64)")
def _with_margin(x: Array, margin: int) -> Array:
    """Add the zero margin of a "same" convolution."""
    height, width, channels = x.shape
    padded = np.zeros((height + 2 * margin, width + 2 * margin, channels), np.float32)
    for row in range(height):
        padded[margin + row, margin : margin + width] = x[row]
    return padded


@compiled(f"float32[:, :, ::1]({_MAP}, {_MATRIX}, {_VECTOR}, int64, int64, int64)", fuse=True)
def _sums(x: Array, matrix: Array, bias: Array, kernel: int, height: int, width: int) -> Array:
    """Convolve integers held in float32, channels last, at the top left positions.

    Half of a hyper-latent and of the activations behind it is zero: what is zero at both of two
    neighbouring positions is left out. Each weight that is read serves both; with four weights
    a pass, the sums pass through memory a quarter as often.

    Returns (height, width, out); for the arguments see ``convolve``.
    """
    padded, outs = _with_margin(x, kernel // 2), matrix.shape[1]
    total = np.empty((height, width, outs), np.float32)
    pair = np.zeros((2, len(matrix) + 3), np.float32)
    lines = np.zeros(len(matrix) + 3, np.uint64)
    spare = np.empty(outs, np.float32)
    for row in range(height):
        for left in range(0, width, 2):
            right = min(left + 1, width - 1)
            used = _gather_used(padded, row, left, right, kernel, pair, lines)
            here, next_to_it = total[row, left], total[row, right] if right > left else spare
            for out in range(outs):
                here[out], next_to_it[out] = bias[out], bias[out]
            for place in range(np.uint64(0), used, np.uint64(4)):
                a, b = _four(pair[0], place), _four(pair[1], place)
                first, second = matrix[lines[place]], matrix[lines[place + np.uint64(1)]]
                third = matrix[lines[place + np.uint64(2)]]
                fourth = matrix[lines[place + np.uint64(3)]]
                for out in range(outs):
                    weights = first[out], second[out], third[out], fourth[out]
                    here[out] += _dot(a, weights)
                    next_to_it[out] += _dot(b, weights)
    return total


@compiled(f"{_VECTOR}({_MAP}, int64, int64, int64)")
def _shuffled(total: Array, row: int, column: int, upsample: int) -> Array:
    """Sums of one cell of the shuffled map; ``total`` holds the shuffle's rows outermost."""
    place = row % upsample * upsample + column % upsample
    channels = total.shape[2] // (upsample * upsample)
    return total[row // upsample, column // upsample, place * channels : (place + 1) * channels]


@compiled(
    f"float32[:, :, ::1]({_MAP}, {_MATRIX}, {_VECTOR}, int64, int64, int64, float32, float32,"
    " float32, int64)"
)
def convolve(
    x: Array,
    matrix: Array,
    bias: Array,
    kernel: int,
    height: int,
    width: int,
    scale: float,
    low: float,
    high: float,
    upsample: int,
) -> Array:
    """Convolve, scale by a power of two, floor, clip, and shuffle pixels.

    Args:
        x: (h, w, channels) integers held in float32.
        matrix: (kernel * kernel * channels, upsample^2 * out) weights, kernel rows outermost; rows
            and columns of the shuffle before the output channels.
        bias: (upsample^2 * out,) added to every sum.
        kernel: side of the kernel; the convolution is "same".
        height: rows of sums that are computed, from the top.
        width: columns of sums that are computed, from the left.
        scale: a power of two, so that the product is exact.
        low: least output.
        high: greatest output.
        upsample: factor of the shuffle.

    Returns:
        (upsample * height, upsample * width, out) integers held in float32.
    """
    total = _sums(x, matrix, bias, kernel, height, width)
    outs = total.shape[2] // (upsample * upsample)
    cells = np.empty((upsample * height, upsample * width, outs), np.float32)
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            sums, cell = _shuffled(total, row, column, upsample), cells[row, column]
            for channel in range(outs):
                cell[channel] = min(max(np.floor(sums[channel] * scale), low), high)
    return cells


@compiled(
    f"uint8[:, :, ::1]({_MAP}, {_MATRIX}, {_VECTOR}, int64, int64, int64, float32, float32,"
    " float32, int64)"
)
def convolve_to_planes(
    x: Array,
    matrix: Array,
    bias: Array,
    kernel: int,
    height: int,
    width: int,
    scale: float,
    low: float,
    high: float,
    upsample: int,
) -> NDArray[np.uint8]:
    """As ``convolve``, to bytes (out, height, width); sizes are those of the output here."""
    total = _sums(x, matrix, bias, kernel, -(-height // upsample), -(-width // upsample))
    channels = total.shape[2] // (upsample * upsample)
    planes = np.empty((channels, height, width), np.uint8)
    cells = np.empty((width, channels), np.uint8)
    for row in range(height):
        for column in range(width):
            sums, cell = _shuffled(total, row, column, upsample), cells[column]
            for channel in range(channels):
                value = min(max(np.floor(sums[channel] * scale), low), high)
                cell[channel] = np.uint8(np.int32(value))
        for channel in range(channels):
            for column in range(width):
                planes[channel, row, column] = cells[column, channel]
    return planes
