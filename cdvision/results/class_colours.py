"""A stable colour for every class, far from those of the classes next to it."""

from __future__ import annotations

import colorsys

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
