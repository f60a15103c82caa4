"""Labels beside their curves: each goes where it covers no line, no error bar and no other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cdvision.results.class_colours import contrast

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]
GAP = 9.0  # points between a marker's centre and its label
READABLE = 4.5  # WCAG 2's least contrast for text
COVERED, OUTSIDE = 10.0, 1e5  # price of a covered spot of a curve; of leaving the axes
SPACING = 3.0  # points between the spots that stand for a curve


class Plotted(Protocol):
    """What a label needs to know of a curve."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def bytes(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def accuracy(self) -> Sequence[float]: ...  # noqa: D102
    @property
    def low(self) -> Sequence[float] | None: ...  # noqa: D102
    @property
    def high(self) -> Sequence[float] | None: ...  # noqa: D102


@dataclass(frozen=True)
class Box:
    """A rectangle in points of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def count(self, spots: Points) -> int:
        """Return how many (N, 2) spots lie inside, a small margin included."""
        x, y = spots.T
        across = (x > self.left - 2) & (x < self.right + 2)
        return int((across & (y > self.bottom - 2) & (y < self.top + 2)).sum())

    def spots(self) -> Points:
        """Return a grid of spots that stand for the area."""
        x = np.arange(self.left, self.right + SPACING, SPACING)
        y = np.arange(self.bottom, self.top + SPACING, SPACING)
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def direct_labels(
    axes: Axes,
    curves: Sequence[Plotted],
    colours: Sequence[str],
    reference: tuple[float, str] | None,
    reference_colour: str,
) -> None:
    """Write each curve's name beside it, and the reference line's above its left end.

    Args:
        axes: with its limits set and its curves drawn.
        curves: what was drawn.
        colours: one a curve, ``"#rrggbb"``.
        reference: height of the horizontal line, and its text.
        reference_colour: colour of the line.
    """
    lines = [_to_points(axes, curve) for curve in curves]
    spots = np.concatenate([_spots(axes, curve) for curve in curves])
    if reference is not None:
        spots = np.concatenate([spots, _label_reference(axes, *reference, reference_colour)])
    for curve, line, colour in zip(curves, lines, colours, strict=True):
        text = axes.annotate(
            curve.name,
            (curve.bytes[0], curve.accuracy[0]),  # a spot that the axes show, to be measured
            xytext=(0, 0),
            textcoords="offset points",
            color=readable(colour),
            fontweight="bold",
            va="center",
            zorder=6,
        )
        size = text.get_window_extent()
        index, box = _best_place(axes, line, spots, (size.width, size.height))
        text.xy = (curve.bytes[index], curve.accuracy[index])
        x, y = line[index]
        text.set_position((box.left - x, (box.bottom + box.top) / 2 - y))
        spots = np.concatenate([spots, box.spots()])


def readable(colour: str) -> str:
    """Darken a colour until text in it can be read on white.

    >>> readable("#0072B2"), readable("#E69F00") != "#E69F00"
    ('#0072b2', True)
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    while contrast((red, green, blue), (255, 255, 255)) < READABLE:
        red, green, blue = (round(part * 0.97) for part in (red, green, blue))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _label_reference(axes: Axes, height: float, name: str, colour: str) -> Points:
    """Write the reference line's label; return what the line and the label cover."""
    left, right = axes.get_xlim()
    text = axes.annotate(
        name,
        (left, height),
        xytext=(4, 4),
        textcoords="offset points",
        color=readable(colour),
        va="bottom",
        zorder=5,
    )
    ends = axes.transData.transform([(left, height), (right, height)])
    (x0, y0), (x1, y1) = ends
    extent = text.get_window_extent()
    box = Box(extent.x0, extent.y0, extent.x1, extent.y1)
    return np.concatenate([_along(np.array([[x0, y0], [x1, y1]])), box.spots()])


def _to_points(axes: Axes, curve: Plotted) -> Points:
    pairs = np.stack([np.asarray(curve.bytes, float), np.asarray(curve.accuracy, float)], axis=1)
    return np.asarray(axes.transData.transform(pairs), np.float64)


def _spots(axes: Axes, curve: Plotted) -> Points:
    """Return spots along the line and along its error bars."""
    parts = [_along(_to_points(axes, curve))]
    if curve.low is not None and curve.high is not None:
        for rate, low, high in zip(curve.bytes, curve.low, curve.high, strict=True):
            bar: Any = axes.transData.transform([(rate, low), (rate, high)])
            parts.append(_along(np.asarray(bar, np.float64)))
    return np.concatenate(parts)


def _along(line: Points) -> Points:
    parts = [line[:1]]
    for start, end in pairwise(line):
        steps = max(2, int(np.hypot(*(end - start)) / SPACING))
        parts.append(start + (end - start) * np.linspace(0, 1, steps)[:, None])
    return np.concatenate(parts)


def _best_place(
    axes: Axes, line: Points, spots: Points, size: tuple[float, float]
) -> tuple[int, Box]:
    """Return the point to stand beside, and the box that covers the least."""
    frame = axes.get_window_extent()
    best: tuple[float, int, Box] | None = None
    for index, box, taste in _places(line, size):
        inside = box.left > frame.x0 and box.right < frame.x1 + 12
        inside = inside and box.bottom > frame.y0 and box.top < frame.y1 + 12
        price = COVERED * box.count(spots) + taste + (0 if inside else OUTSIDE)
        if best is None or price < best[0]:
            best = price, index, box
    if best is None:
        raise ValueError("a curve without points has no place for a label")
    return best[1], best[2]


def _places(line: Points, size: tuple[float, float]) -> Iterator[tuple[int, Box, float]]:
    """Yield places around every point, with how little we like them: ends first, close first."""
    width, height = size
    last = len(line) - 1
    for index, (x, y) in enumerate(line.tolist()):
        middle = min(last - index, 2 * index) * 0.5  # the top end before the low end
        sides = (
            (x + GAP, y, 0.0),
            (x + GAP * 0.7, y + GAP, 0.4),
            (x + GAP * 0.7, y - GAP, 0.2),
            (x - GAP - width, y, 0.6),
            (x - GAP * 0.7 - width, y + GAP, 0.5),
            (x - GAP * 0.7 - width, y - GAP, 1.0),
            (x - width / 2, y + GAP + height / 2, 0.3),
            (x - width / 2, y - GAP - height / 2, 0.5),
        )
        for left, centre, taste in sides:
            box = Box(left, centre - height / 2, left + width, centre + height / 2)
            yield index, box, middle + taste
