"""The compiled loops of run-length masks: see ``mask_runs``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.kernels import compiled, compiled_inside

Floats = NDArray[np.float32]
_MAPS = "Array(float32, 3, 'C', readonly=True)"
_VECTOR = "Array(float32, 1, 'C', readonly=True)"
_LINES = "Array(float32, 2, 'C', readonly=True)"
_PLACES = "Array(float64, 1, 'C', readonly=True)"


@compiled_inside()
def _logits(
    maps: Floats, network: Floats, corner: tuple[int, int], across: Floats, down: Floats
) -> Floats:
    """Run an object's network on a window: (h, w). Loops run along rows, as memory does."""
    count, (top, left), width = len(maps), corner, len(across)
    # Weights are (hidden, maps + x + y), then biases, then the second layer and its bias.
    inputs = count + 2
    hidden = (len(network) - 1) // (inputs + 2)
    logits, unit = np.full((len(down), width), network[-1]), np.empty(width, np.float32)
    for row in range(len(down)):
        for index in range(hidden):
            weights = network[index * inputs : (index + 1) * inputs]
            # Bias and the row's place are the same along a row: added once.
            start = network[hidden * inputs + index] + weights[count + 1] * down[row]
            for column in range(width):
                unit[column] = start + weights[count] * across[column]
            for channel in range(count):
                weight = weights[channel]
                line = maps[channel, top + row, left : left + width]
                for column in range(width):
                    unit[column] += weight * line[column]
            # The second layer, of the unit's ReLU.
            weight = network[hidden * (inputs + 1) + index]
            for column in range(width):
                logits[row, column] += weight * max(unit[column], np.float32(0))
    return logits


@compiled(
    f"float32[:, ::1]({_MAPS}, {_VECTOR}, UniTuple(int64, 2), {_VECTOR}, {_VECTOR}, "
    f"Array(int64, 1, 'C', readonly=True), {_VECTOR})"
)
def lines_of_object(
    maps: Floats,
    network: Floats,
    corner: tuple[int, int],
    across: Floats,
    down: Floats,
    cells: NDArray[np.int64],
    shares: Floats,
) -> Floats:
    """Return an object's logits (columns, rows) at columns between the window's cells.

    The window begins at ``corner`` (row, column) of ``maps`` (12, H, W); ``across`` (w,) and
    ``down`` (h,) are the places of its columns and rows in the box, and ``network`` (129,) is as
    in ``dynamic_masks``. ``cells`` are the window's columns on the far side of which each column
    lies, ``shares`` its share of the next one.
    """
    logits = _logits(maps, network, corner, across, down)
    rows, width = logits.shape
    lines = np.empty((len(cells), rows), np.float32)
    for column in range(len(cells)):
        near, share = cells[column], shares[column]
        far = min(near + 1, width - 1)
        for row in range(rows):
            value = logits[row, near]
            lines[column, row] = value + share * (logits[row, far] - value)
    return lines


@compiled(f"int64(Array(float32, 1, 'C', readonly=True), {_PLACES}, int64)")
def _first_row_behind(line: Floats, centres: NDArray[np.float64], place: int) -> int:
    """Return the first row whose centre lies behind the change of sign before a sample."""
    before, after = line[place - 1], line[place]
    share = np.float64(before) / (np.float64(before) - np.float64(after))
    # Where the straight line between two samples is 0.
    crossing = centres[place - 1] + share * (centres[place] - centres[place - 1])
    # The centre of row r lies at r + 0.5.
    return int(np.ceil(crossing - 0.5))


@compiled(f"int64[::1]({_LINES}, {_PLACES}, int64, int64, int64, int64)")
def positions_of(
    lines: Floats, centres: NDArray[np.float64], first: int, top: int, bottom: int, height: int
) -> NDArray[np.int64]:
    """Return the pixels, column by column, at which the mask begins and ends, ascending.

    A line begins and ends in the background. A run of no pixel begins where it ends, and the end
    of a column may be the start of the next: such pairs are left out.
    """
    columns, samples = lines.shape
    found, used = np.empty(columns * (samples + 1), np.int64), 0
    for column in range(columns):
        line, inside = lines[column], False
        # One place more than there are samples: there a line that is still inside ends.
        for place in range(samples + 1):
            positive = place < samples and line[place] > 0
            if positive == inside:
                continue
            inside = positive
            edge = bottom if place == samples else top
            if 0 < place < samples:
                edge = _first_row_behind(line, centres, place)
            position = (first + column) * height + min(max(edge, top), bottom)
            if used > 0 and found[used - 1] == position:
                used -= 1
            else:
                found[used] = position
                used += 1
    return found[:used].copy()


@compiled("uint8[::1](int64[::1], int64)")
def text_of(positions: NDArray[np.int64], pixels: int) -> NDArray[np.uint8]:
    """Write the runs between positions, and up to the last pixel, as COCO's string.

    See ``compress_counts`` of ``cdvision.results.masks``, of which this gives the same bytes.
    """
    count = len(positions) + 1
    # Foreground to the last pixel: no run of background follows.
    if count > 1 and positions[-1] == pixels:
        count -= 1
    runs = np.empty(count, np.int64)
    start = 0
    for i in range(count):
        stop = positions[i] if i < len(positions) else pixels
        runs[i], start = stop - start, stop
    # 64 bits, five a character, are 13 characters at the most.
    text, used = np.empty(13 * count, np.uint8), 0
    for i in range(count):
        # From the third run on COCO writes the difference to the last run of the same colour.
        value = runs[i] - runs[i - 2] if i > 2 else runs[i]
        more = True
        while more:
            group = value & 31
            value >>= 5
            # Done once what is left is all sign, and the group's top bit says which sign.
            more = value != -1 if group & 16 else value != 0
            # 48 is "0"; 32 more say that another group follows.
            text[used] = group + (80 if more else 48)
            used += 1
    return text[:used].copy()
