"""From a mask branch's dense outputs to run-length masks of the source image.

Every object brings the weights of a small network, which is evaluated on the prototypes inside its
box only. What comes out is enlarged along the columns' axis, and along the rows only where it
changes its sign: between two samples a linear interpolation does so at most once, at a place known
in closed form. A mask costs its columns times its cells, whatever the size of the photo.

Source: Tian et al., "Conditional Convolutions for Instance Segmentation" (CondInst), ECCV 2020.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.core.boxes import mask_lines, mask_positions, mask_text
from cdvision.results.checks import check_array, check_image_size
from cdvision.results.masks import Rle

Floats = NDArray[np.float32]
Size = tuple[int, int]

# Maps, coordinates in the box, and hidden units of an object's network.
PROTOTYPES, PLACES, HIDDEN = 12, 2, 8
COEFFICIENTS = HIDDEN * (PROTOTYPES + PLACES) + HIDDEN + HIDDEN + 1
STRIDE = 4  # of prototypes


def dynamic_masks(
    prototypes: Floats,
    coefficients: Floats,
    boxes: Floats,
    *,
    content_size: Size,
    source_size: Size,
) -> tuple[Rle, ...]:
    """Return the mask of each object, inside its box: K COCO run-length masks of the source's size.

    Args:
        prototypes: (12, H / 4, W / 4) float32 of the network input.
        coefficients: (K, 129) float32, the objects' networks: weights (8, 14) of prototypes, x
            and y, biases (8,), weights (8,) of the hidden units and a bias. x is -1 at the left
            side of the box, 1 at the right; y at its top and bottom. The object is where the
            result is above 0.
        boxes: (K, 4) float32 left, top, right, bottom in pixels of the network input.
        content_size: (width, height) of the scaled image, at the top left of the input.
        source_size: (width, height) of the source image.

    Raises:
        ResultError: an array has another shape or type.
    """
    check_array("prototypes", prototypes, shape=(PROTOTYPES, "h", "w"), dtype=np.float32)
    check_array("boxes", boxes, shape=("k", 4), dtype=np.float32)
    check_array("coefficients", coefficients, shape=(len(boxes), COEFFICIENTS), dtype=np.float32)
    content, source = check_image_size(content_size), check_image_size(source_size)
    scale = np.array([s / c for s, c in zip(source, content, strict=True)], np.float32)
    prototypes, coefficients = map(np.ascontiguousarray, (prototypes, coefficients))
    pixels = _pixels(boxes * np.tile(scale, 2), source)
    return tuple(
        _mask(prototypes, weights, box, sides, scale, source)
        for weights, box, sides in zip(coefficients, boxes, pixels.tolist(), strict=True)
    )


def _mask(
    prototypes: Floats, weights: Floats, box: Floats, sides: list[int], scale: Floats, source: Size
) -> Rle:
    _, height, width = prototypes.shape
    first, top, stop, bottom = sides
    columns, share = _cells(np.arange(first, stop), scale[0], width)
    rows, _ = _cells(np.array([top, bottom - 1]), scale[1], height)
    # The window of cells between which the box's pixels lie, the far one of the last included.
    across = np.arange(columns[0], min(columns[-1] + 2, width))
    down = np.arange(rows[0], min(rows[-1] + 2, height))
    lines = mask_lines(
        prototypes,
        weights,
        (down[0], across[0]),
        _in_box(across, box[0], box[2]),
        _in_box(down, box[1], box[3]),
        columns - columns[0],
        share,
    )
    centres = (down + np.float32(0.5)) * (STRIDE * scale[1])
    return runs_of_columns(lines, centres, first, (top, bottom), source)


def runs_of_columns(
    lines: Floats, centres: NDArray[np.floating], first: int, rows: tuple[int, int], size: Size
) -> Rle:
    """Encode where the columns of a picture are positive, without ever making its pixels.

    Args:
        lines: (columns, samples) float32, one line a column of pixels.
        centres: (samples,) ascending places of the samples in pixels; before the first and behind
            the last, a line is constant. The centre of pixel 0 lies at 0.5.
        first: the picture's column that the first line belongs to.
        rows: the first row that may be set, and the one after the last.
        size: (width, height) of the picture.
    """
    width, height = size
    lines = np.ascontiguousarray(lines, np.float32)
    places = np.ascontiguousarray(centres, np.float64)
    positions = mask_positions(lines, places, first, rows, height)
    return Rle(size=[height, width], counts=mask_text(positions, width * height))


def _pixels(boxes: Floats, source: Size) -> NDArray[np.int64]:
    """Return first column and row, and those after the last (K, 4); at least one pixel each."""
    sides = np.rint(boxes).astype(np.int64)
    limit = np.array(source)
    first = np.clip(sides[:, :2], 0, limit - 1)
    stop = np.minimum(np.maximum(sides[:, 2:], first + 1), limit)
    return np.concatenate([first, stop], axis=1)


def _cells(
    pixels: NDArray[np.int64], scale: np.float32, count: int
) -> tuple[NDArray[np.int64], Floats]:
    """Return the cell on whose far side a pixel's centre lies, and its share of the next cell."""
    # Centres lie half a pixel in, and half a cell: between them a pixel's place in cells.
    place = (pixels + np.float32(0.5)) * (1 / (STRIDE * scale)) - np.float32(0.5)
    place = np.minimum(np.maximum(place, 0), count - 1).astype(np.float32)
    cell = place.astype(np.int64)
    return cell, (place - cell).astype(np.float32)


def _in_box(cells: NDArray[np.int64], low: np.float32, high: np.float32) -> Floats:
    """Map the centres of cells to -1 ... 1 between two sides of a box."""
    # Of a box narrower than a pixel half a pixel, so that nothing is divided by 0.
    half = np.maximum((high - low) / 2, np.float32(0.5))
    places: Floats = ((cells + np.float32(0.5)) * STRIDE - (low + high) / 2) / half
    return places.astype(np.float32)
