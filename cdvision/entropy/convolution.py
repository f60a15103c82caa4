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

from cdvision.entropy.kernels import compiled, compiled_inside

Array = NDArray[np.float32]
Four = tuple[np.float32, np.float32, np.float32, np.float32]
Number = float | np.float32
Scratch = tuple[Array, NDArray[np.uint64], Array]

_U0, _U1 = np.uint64(0), np.uint64(1)

_MAP = "Array(float32, 3, 'C', readonly=True)"
_MATRIX = "Array(float32, 2, 'C', readonly=True)"
_VECTOR = "Array(float32, 1, 'C', readonly=True)"
_BIASES = "Array(float32, 2, 'C', readonly=True)"
_SETTINGS = "Array(int64, 2, 'C', readonly=True)"


@compiled_inside()
def _four(values: Array, place: int) -> Four:
    return values[place], values[place + 1], values[place + 2], values[place + 3]


@compiled_inside(fuse=True)
def _dot(a: Four, b: Four) -> np.float32:
    return (a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3])


@compiled_inside()
def _gather_used(
    a: Array, b: Array, seen: int, line: int, kernel: int, pair: Array, lines: NDArray[np.uint64]
) -> np.uint64:
    """Gather what the kernel sees at two positions, without what is zero at both.

    ``a`` and ``b`` begin where it begins to see: ``seen`` values in each of ``kernel`` rows, which
    are ``line`` values apart. Writes the values into ``pair`` (2, ...) and each one's row of the
    weights into ``lines``; returns how many there are. Three zeros follow them.
    """
    first, second, used, weight = pair[0], pair[1], _U0, _U0
    for y in range(kernel):
        for place in range(np.uint64(y * line), np.uint64(y * line + seen)):
            # Written always, kept only if not both are zero: the next one overwrites it otherwise.
            first[used], second[used], lines[used] = a[place], b[place], weight
            used += np.uint64((a[place] != 0) | (b[place] != 0))
            weight += _U1
    # ``_add_products`` reads four at a time, up to three beyond the last.
    first[used : used + np.uint64(3)] = 0
    second[used : used + np.uint64(3)] = 0
    return used


@compiled_inside()
def _with_margin(x: Array, margin: int) -> Array:
    """Add the zero margin of a "same" convolution."""
    height, width, channels = x.shape
    padded = np.zeros((height + 2 * margin, width + 2 * margin, channels), np.float32)
    for row in range(height):
        padded[margin + row, margin : margin + width] = x[row]
    return padded


@compiled_inside()
def _scratch(rows: int, outs: int) -> Scratch:
    """Make what ``_row_of_sums`` works in, for a layer of so many rows of weights and sums.

    Three more lines than rows, so that four can be read where one is left; each names a row.
    """
    pair, lines = np.zeros((2, rows + 3), np.float32), np.zeros(rows + 3, np.uint64)
    # A row that is read beyond the last meets a zero, so any valid row will do.
    for line in range(rows):
        lines[line] = line
    return pair, lines, np.empty(outs, np.float32)


@compiled_inside(fuse=True)
def _add_products(
    here: Array, beside: Array, matrix: Array, lines: NDArray[np.uint64], pair: Array,
    used: np.uint64,
) -> None:  # fmt: skip
    """Add the products of ``used`` values at two positions with their rows of the weights.

    With four weights a pass, the sums pass through memory a quarter as often; ``used`` is rounded
    up to that.
    """
    for place in range(_U0, used, np.uint64(4)):
        a, b = _four(pair[0], place), _four(pair[1], place)
        first, second = matrix[lines[place]], matrix[lines[place + _U1]]
        third = matrix[lines[place + np.uint64(2)]]
        fourth = matrix[lines[place + np.uint64(3)]]
        for out in range(_U0, np.uint64(len(here))):
            weights = first[out], second[out], third[out], fourth[out]
            here[out] += _dot(a, weights)
            beside[out] += _dot(b, weights)


@compiled_inside()
def _row_of_sums(
    padded: Array, row: int, matrix: Array, bias: Array, kernel: int, total: Array,
    scratch: Scratch,
) -> None:  # fmt: skip
    """Convolve one row of integers held in float32, channels last, into ``total`` (width, out).

    Half of a hyper-latent and of most activations behind it is zero: what is zero at both of two
    neighbouring positions is left out. Each weight that is read serves both.
    """
    (pair, lines, spare), (width, outs), (_, columns, channels) = scratch, total.shape, padded.shape
    values, seen, line = padded[row:].reshape(-1), kernel * channels, columns * channels
    for left in range(0, width, 2):
        # Behind the last column of an odd width the right one's sums go to ``spare``, unused.
        right = min(left + 1, width - 1)
        here, beside = total[left], total[right] if right > left else spare
        for out in range(outs):
            here[out], beside[out] = bias[out], bias[out]
        a, b = values[left * channels :], values[right * channels :]
        used = _gather_used(a, b, seen, line, kernel, pair, lines)
        _add_products(here, beside, matrix, lines, pair, used)


@compiled_inside()
def _cells_of(
    x: Array, matrix: Array, bias: Array, kernel: int, height: int, width: int,
    scale: Number, low: Number, high: Number, upsample: int,
) -> Array:  # fmt: skip
    """Do what ``convolve`` says."""
    padded, outs = _with_margin(x, kernel // 2), matrix.shape[1] // (upsample * upsample)
    total, scratch = np.empty((width, matrix.shape[1]), np.float32), _scratch(*matrix.shape)
    cells = np.empty((upsample * height, upsample * width, outs), np.float32)
    for row in range(height):
        _row_of_sums(padded, row, matrix, bias, kernel, total, scratch)
        # Pixel shuffle: sums of one position become upsample x upsample cells.
        for place in range(upsample * upsample):
            line = cells[upsample * row + place // upsample]
            for column in range(width):
                cell = line[upsample * column + place % upsample]
                sums = total[column, place * outs : (place + 1) * outs]
                # A product with a power of two, floored, is a shift of integers to the right.
                for channel in range(outs):
                    cell[channel] = min(max(np.floor(sums[channel] * scale), low), high)
    return cells


@compiled_inside()
def _planes_of(
    x: Array, matrix: Array, bias: Array, kernel: int, height: int, width: int,
    scale: Number, low: Number, high: Number, upsample: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """As ``convolve``, to (out, height, width); here these are the output's sizes."""
    rows, columns = -(-height // upsample), -(-width // upsample)
    padded, outs = _with_margin(x, kernel // 2), matrix.shape[1] // (upsample * upsample)
    total, scratch = np.empty((columns, matrix.shape[1]), np.float32), _scratch(*matrix.shape)
    planes = np.empty((outs, height, width), np.uint8)
    cells = np.empty((upsample, upsample * columns, outs), np.uint8)
    for row in range(rows):
        _row_of_sums(padded, row, matrix, bias, kernel, total, scratch)
        for place in range(upsample * upsample):
            line = cells[place // upsample]
            for column in range(columns):
                cell = line[upsample * column + place % upsample]
                sums = total[column, place * outs : (place + 1) * outs]
                for channel in range(outs):
                    value = min(max(np.floor(sums[channel] * scale), low), high)
                    # Through int32, for which there are vector instructions.
                    cell[channel] = np.uint8(np.int32(value))
        # Channels last to planes, a block of rows at a time, while they are in the cache.
        first = upsample * row
        for channel in range(outs):
            for y in range(first, min(first + upsample, height)):
                plane, line = planes[channel, y], cells[y - first]
                for column in range(width):
                    plane[column] = line[column, channel]
    return planes


@compiled(
    f"float32[:, :, ::1]({_MAP}, {_MATRIX}, {_VECTOR}, int64, int64, int64, float32, float32,"
    " float32, int64)"
)
def convolve(
    x: Array, matrix: Array, bias: Array, kernel: int, height: int, width: int,
    scale: float, low: float, high: float, upsample: int,
) -> Array:  # fmt: skip
    """Convolve, scale by a power of two, floor, clip, and shuffle pixels.

    ``x`` (h, w, channels) are integers held in float32. ``matrix`` has weights (kernel * kernel *
    channels, upsample^2 * out), kernel rows outermost; rows and columns of the shuffle stand before
    the output channels, as in ``bias``. The convolution is "same"; ``height`` x ``width`` sums are
    computed, from the top left. ``scale`` is a power of two, so that the product is exact.

    Returns:
        (upsample * height, upsample * width, out) integers held in float32.
    """
    return _cells_of(x, matrix, bias, kernel, height, width, scale, low, high, upsample)


@compiled_inside()
def _channels_last(z: NDArray[np.int32]) -> Array:
    channels, height, width = z.shape
    x = np.empty((height, width, channels), np.float32)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                x[row, column, channel] = z[channel, row, column]
    return x


@compiled_inside()
def _positions(settings: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Rows and columns of sums that each layer has to compute for a size of the output."""
    positions = np.empty((len(settings), 2), np.int64)
    # Backwards from the output: less for each shuffle, more by half a kernel for each convolution.
    for layer in range(len(settings) - 1, -1, -1):
        kernel, upsample = settings[layer, 1], settings[layer, 2]
        height, width = -(-height // upsample), -(-width // upsample)
        positions[layer, 0], positions[layer, 1] = height, width
        height, width = height + kernel // 2, width + kernel // 2
    return positions


@compiled(
    f"uint8[:, :, ::1](Array(int32, 3, 'C', readonly=True), {_VECTOR}, {_BIASES}, {_SETTINGS},"
    " int64, int64, int64)"
)
def chain_to_planes(
    z: NDArray[np.int32], weights: Array, biases: Array, settings: NDArray[np.int64],
    quality: int, height: int, width: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """Run a chain of layers on ``z`` (channels, h, w) to (out, height, width).

    Of each layer only what the top left of the output needs is computed. ``weights`` are the
    layers' matrices (see ``convolve``), one behind the other, ``biases`` (qualities, ...) likewise.
    A row of ``settings`` is a layer's sums, kernel, upsample, shift, low, high, rows of the matrix.
    """
    x, positions, last = _channels_last(z), _positions(settings, height, width), len(settings) - 1
    from_weight, from_bias = 0, 0
    for layer in range(len(settings)):
        outs, kernel, upsample, shift, low, high, rows = settings[layer]
        matrix = weights[from_weight : from_weight + rows * outs].reshape((rows, outs))
        bias = biases[quality, from_bias : from_bias + outs]
        from_weight, from_bias = from_weight + rows * outs, from_bias + outs
        scale, least, most = np.float32(0.5**shift), np.float32(low), np.float32(high)
        if layer == last:
            break
        sums = min(positions[layer, 0], x.shape[0]), min(positions[layer, 1], x.shape[1])
        x = _cells_of(x, matrix, bias, kernel, sums[0], sums[1], scale, least, most, upsample)
    return _planes_of(x, matrix, bias, kernel, height, width, scale, least, most, upsample)
