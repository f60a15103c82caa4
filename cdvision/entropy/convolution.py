"""The compiled convolution of the integer hyper-network.

A loop of ours and not a BLAS call, for one reason: a BLAS library splits a product of this size
over its own threads, which then fight with the engine's threads for the cores. On a busy 2-core
machine that took 36 ms where one thread takes half a millisecond. The numbers are the same either
way: every partial sum is an integer below 2^24 (see ``integer_network``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.kernels import compiled

Array = NDArray[np.float32]

_MAP = "Array(float32, 3, 'C', readonly=True)"
_MATRIX = "Array(float32, 2, 'C', readonly=True)"
_VECTOR = "Array(float32, 1, 'C', readonly=True)"


@compiled(f"void({_MAP}, {_MATRIX}, {_VECTOR}, int64, float32[:, :, ::1])")
def accumulate(padded: Array, matrix: Array, bias: Array, kernel: int, total: Array) -> None:
    """Convolve integers held in float32, channels last.

    Args:
        padded: (h + kernel - 1, w + kernel - 1, channels) input with its zero margin.
        matrix: (kernel * kernel * channels, out) weights, kernel rows outermost, followed by
            rows of zeros up to a multiple of four.
        bias: (out,) added to every sum.
        kernel: side of the kernel.
        total: (h, w, out), written: the sums.
    """
    height, width, _ = total.shape
    channels = padded.shape[2]
    patch = np.zeros(-(-kernel * kernel * channels // 4) * 4, np.float32)
    for row in range(height):
        for column in range(width):
            place = 0
            for y in range(kernel):
                for x in range(kernel):
                    for channel in range(channels):
                        patch[place] = padded[row + y, column + x, channel]
                        place += 1
            sums = total[row, column]
            sums[:] = bias
            # Four weights a pass: the sums then pass through memory a quarter as often.
            for line in range(0, len(patch), 4):
                a, b, c, d = patch[line], patch[line + 1], patch[line + 2], patch[line + 3]
                if a == 0 and b == 0 and c == 0 and d == 0:
                    continue
                first, second = matrix[line], matrix[line + 1]
                third, fourth = matrix[line + 2], matrix[line + 3]
                for out in range(len(sums)):
                    near = a * first[out] + b * second[out]
                    sums[out] += near + (c * third[out] + d * fourth[out])
