"""Rate-accuracy plots: log bytes against accuracy, as an SVG that any README can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind-safe palette, without its yellow, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
DASHED = (0, (5, 3))
INK, FAINT, CARD, EDGE = "#1f2328", "#6e7781", "#ffffff", "#d0d7de"
WIDTH, HEIGHT = 8.0, 5.0  # inches at 72 dots, the SVG's own unit

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "cdvision",  # else every run gives its clip paths other names
    "svg.fonttype": "path",  # a reader's fonts cannot change the layout
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Curve:
    """Accuracy of one codec at several rates, the points joined in their order.

    Raises:
        CdvisionError: lengths differ, there is no point, or a rate is not above 0.
    """

    name: str  # what the legend says
    bytes: Sequence[float]  # mean bytes a photo
    accuracy: Sequence[float]  # one figure per entry of ``bytes``, as for the ends of error bars
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def __post_init__(self) -> None:
        given = (self.accuracy, self.low, self.high)
        lengths = {len(values) for values in given if values is not None}
        if lengths != {len(self.bytes)} or not len(self.bytes):
            raise CdvisionError(
                f"curve {self.name!r}: expected as many figures as rates, at least one; "
                f"found {len(self.bytes)} rates and {sorted(lengths)} figures"
            )
        if (self.low is None) != (self.high is None):
            raise CdvisionError(f"curve {self.name!r}: expected both ends of error bars, or none")
        if not all(rate > 0 for rate in self.bytes):
            raise CdvisionError(f"curve {self.name!r}: expected rates above 0 on a log axis")


def write_plot(
    path: Path,
    curves: Sequence[Curve],
    *,
    title: str,
    y_label: str,
    reference: float | None = None,
    reference_label: str = "uncompressed",
) -> None:
    """Write a rate-accuracy plot as SVG; the same curves give the same bytes.

    >>> small = Curve("small", [500, 1000, 2000], [0.1, 0.2, 0.25])
    >>> write_plot(Path("rate.svg"), [small], title="coco-dev", y_label="AP")

    The first curve is drawn thicker, on top of the others. ``reference`` is the accuracy of the
    uncompressed networks: a dashed horizontal line, of which the legend says ``reference_label``.

    Raises:
        CdvisionError: there is no curve, or matplotlib (the ``eval`` extra) is missing.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CdvisionError("plots need matplotlib: pip install 'cdvision[eval]'") from error
    if not curves:
        raise CdvisionError(f"{path}: a plot needs at least one curve, found none")
    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=72)
        axes = figure.add_axes((0.095, 0.125, 0.875, 0.765))
        _draw_card(figure)
        _draw_axes(axes, curves, title, y_label, reference)
        for index, curve in enumerate(curves):
            _draw_curve(axes, curve, index)
        if reference is not None:
            label = f"{reference_label} {reference:.3f}"
            axes.axhline(reference, color=FAINT, linewidth=1.2, linestyle=DASHED, label=label)
        axes.legend(loc="best", framealpha=0.85, edgecolor=EDGE)
        metadata = {"Date": None, "Creator": None, "Title": title}
        figure.savefig(path, format="svg", facecolor="none", metadata=metadata)


def _draw_card(figure: Figure) -> None:
    """Lay a white card with round corners below the plot: dark pages show it as one."""
    from matplotlib.patches import FancyBboxPatch

    inset = 0.002
    card = FancyBboxPatch(
        (inset, inset),
        1 - 2 * inset,
        1 - 2 * inset,
        boxstyle="round,pad=0,rounding_size=0.02",
        transform=figure.transFigure,
        mutation_aspect=WIDTH / HEIGHT,
        facecolor=CARD,
        edgecolor=EDGE,
        linewidth=1,
        zorder=-10,
    )
    figure.patches.append(card)


def _draw_axes(
    axes: Axes, curves: Sequence[Curve], title: str, y_label: str, reference: float | None
) -> None:
    rates = np.concatenate([np.asarray(curve.bytes, float) for curve in curves])
    # On a log axis margins are shares of the decades shown, and less than 0.8 of one has no ticks.
    low, high = _padded(np.log10(rates), 0.06, 0.1, least=0.8)
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    ticks = rate_ticks(10**low, 10**high)
    axes.set_xticks(ticks, [format_bytes(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(*_accuracy_limits(curves, reference))
    axes.grid(color=EDGE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.tick_params(axis="x", length=4)
    axes.set_xlabel("mean bytes a photo (all bytes counted, log scale)", labelpad=6)
    axes.text(0, 1.02, y_label, transform=axes.transAxes, color=INK, va="bottom")
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left", pad=22)


def _draw_curve(axes: Axes, curve: Curve, index: int) -> None:
    colour, main = COLOURS[index % len(COLOURS)], index == 0
    accuracy = np.asarray(curve.accuracy, float)
    if curve.low is not None and curve.high is not None:
        axes.vlines(
            curve.bytes, curve.low, curve.high, colors=colour, linewidth=3, alpha=0.28, zorder=2
        )
    axes.plot(
        curve.bytes,
        accuracy,
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=7.5 if main else 6.5,
        markeredgecolor=CARD,
        markeredgewidth=0.7,
        linewidth=2.8 if main else 1.6,
        zorder=4 if main else 3,
        clip_on=False,
        label=curve.name,
    )


def _accuracy_limits(curves: Sequence[Curve], reference: float | None) -> tuple[float, float]:
    ends = [end for c in curves for end in (c.accuracy, c.low, c.high) if end is not None]
    values = np.concatenate([np.asarray(end, float) for end in ends])
    if reference is not None:
        values = np.append(values, reference)
    low, high = _padded(values, 0.06, 0.1, least=0.05)
    return max(low, -0.01) if values.min() >= 0 else low, high


def _padded(
    values: NDArray[np.float64], below: float, above: float, *, least: float
) -> tuple[float, float]:
    """Return limits around the values that are at least ``least`` apart, margins not counted."""
    low, high = float(values.min()), float(values.max())
    # Points that hardly differ would fill the whole height: noise would look like a trend.
    missing = max(0.0, least - (high - low)) / 2
    low, high = low - missing, high + missing
    return low - below * (high - low), high + above * (high - low)


def rate_ticks(low: float, high: float) -> list[float]:
    """Return round numbers of bytes between two rates: 1, 2, 5 of each decade.

    >>> rate_ticks(400, 6000)
    [500.0, 1000.0, 2000.0, 5000.0]
    """
    # One decade more at each end: the last filter keeps what lies between the rates.
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = [float(step * 10.0**decade) for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def format_bytes(count: float) -> str:
    """Return a number of bytes as a tick shows it.

    >>> [format_bytes(count) for count in (500, 1000, 2500, 2e6)]
    ['500 B', '1 kB', '2.5 kB', '2 MB']
    """
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:g} {unit}"
    return f"{count:g} B"
