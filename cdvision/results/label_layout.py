"""Where a label goes: at its box, inside the picture, and off the labels already placed."""

from __future__ import annotations

from collections.abc import Iterator

Box = tuple[int, int, int, int]


def place_label(
    label: tuple[int, int], box: Box, picture: tuple[int, int], taken: list[Box]
) -> Box:
    """Choose the place of one label; if every place covers another label, the least covered.

    >>> place_label((40, 10), (20, 30, 90, 90), (100, 100), [])
    (20, 20, 60, 30)
    >>> place_label((40, 10), (20, 4, 90, 90), (100, 100), [])
    (20, 4, 60, 14)

    Args:
        label: (width, height) of the label.
        box: the box it names.
        picture: (width, height) of the picture.
        taken: places of other labels.

    Returns:
        left, top, right, bottom; inside the picture wherever the label fits into it.
    """
    places = list(_candidates(label, box, picture))
    return min(places, key=lambda place: sum(_shared_area(place, other) for other in taken))


def _candidates(label: tuple[int, int], box: Box, picture: tuple[int, int]) -> Iterator[Box]:
    """Yield places, best first: above the box, inside its top, below it, inside its bottom."""
    width, height = label
    left, top, right, bottom = box
    tops = [top, bottom, bottom - height]
    # Above the box is best, where the picture has room there.
    if top >= height:
        tops.insert(0, top - height)
    for side in (left, right - width):
        for wanted in tops:
            # Moved back inside, where a place would reach over the picture's border.
            x = max(0, min(side, picture[0] - width))
            y = max(0, min(wanted, picture[1] - height))
            yield x, y, x + width, y + height


def _shared_area(first: Box, second: Box) -> int:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    # Rectangles that lie apart have a negative width or height in common.
    return max(width, 0) * max(height, 0)
