"""Labels of boxes: a colour for every class, and a place off the labels that stand already."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator

Box = tuple[int, int, int, int]
Colour = tuple[int, int, int]

_BLACK: Colour = (0, 0, 0)
_WHITE: Colour = (255, 255, 255)
# Steps of the golden ratio never fall close to a hue that was used a few classes ago.
_GOLDEN_RATIO = 0.6180339887
# Orange-red, the most visible hue on most photos, goes to class 0 (people).
_FIRST_HUE = 0.04
# Four levels: hues nearly repeat after 13, 21, 34 and 55 steps, none of which is a multiple of 4.
_SATURATION_AND_VALUE = ((0.82, 1.0), (0.55, 0.95), (0.95, 0.78), (0.70, 0.88))


def class_colour(class_id: int) -> Colour:
    """Return the (red, green, blue) of a class, the same on every picture.

    >>> class_colour(0)
    (255, 96, 46)
    """
    hue = (_FIRST_HUE + class_id * _GOLDEN_RATIO) % 1.0
    saturation, value = _SATURATION_AND_VALUE[class_id % len(_SATURATION_AND_VALUE)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever has the higher WCAG 2 contrast on this background.

    >>> text_colour((255, 230, 0)), text_colour((40, 0, 120))
    ((0, 0, 0), (255, 255, 255))
    """
    return max(_BLACK, _WHITE, key=lambda text: contrast(text, background))


def contrast(first: Colour, second: Colour) -> float:
    """Return the WCAG 2 contrast ratio of two colours, 1 to 21; text wants 4.5 or more."""
    # 0.05 is the light that a screen reflects: even black is not wholly dark.
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    # sRGB stores light under a gamma of 2.4, but for a straight piece near black.
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in colour)
    )
    # The eye takes most of its brightness from green, and little from blue.
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def place_label(
    label: tuple[int, int], box: Box, picture: tuple[int, int], taken: list[Box]
) -> Box:
    """Return (left, top, right, bottom) of one label, inside the picture wherever it fits into it.

    >>> place_label((40, 10), (20, 30, 90, 90), (100, 100), [])
    (20, 20, 60, 30)
    >>> place_label((40, 10), (20, 4, 90, 90), (100, 100), [])
    (20, 4, 60, 14)

    ``label`` and ``picture`` are (width, height); ``taken`` are the places of other labels.
    """
    # min takes the first of equals: the best place that covers the least of other labels.
    places = list(_candidates(label, box, picture))
    return min(places, key=lambda place: sum(_shared_area(place, other) for other in taken))


def _candidates(label: tuple[int, int], box: Box, picture: tuple[int, int]) -> Iterator[Box]:
    # Best first: above the box, inside its top, below it, inside its bottom; left, then right.
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
