"""The figures of faces: what they are called, which way is better, and rivals at our bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.bench.bjontegaard import non_dominated

Record = Mapping[str, Any]
RATE = "mean_payload_bytes"
"""What counts as a rival's bytes: its files freed of their containers, the kindest count."""


@dataclass(frozen=True)
class Figure:
    """One column of the tables.

    Attributes:
        name: entry of our records.
        title: for people.
        rival: entry of the rivals' records that it is held against.
        higher: whether more is better.
        digits: behind the point.
    """

    name: str
    title: str
    rival: str
    higher: bool = True
    digits: int = 3


ATTRIBUTES = (
    Figure("accuracy", "mean accuracy", "accuracy"),
    Figure("balanced_accuracy", "balanced accuracy", "balanced_accuracy"),
    Figure("average_precision", "mean AP", "average_precision"),
)
RECONSTRUCTIONS = (
    Figure("picture_accuracy", "mean accuracy on the picture", "accuracy"),
    Figure("picture_balanced_accuracy", "balanced accuracy on the picture", "balanced_accuracy"),
)


def distances(*, features: bool, scales: int) -> tuple[Figure, ...]:
    """Return the distances of pictures from the originals.

    Args:
        features: whether LPIPS and DISTS were measured.
        scales: of MS-SSIM at this size.
    """
    found = [
        Figure("psnr", "PSNR, dB", "psnr", digits=2),
        Figure("ms_ssim", f"MS-SSIM ({scales} scales)", "ms_ssim"),
    ]
    if features:
        found += [
            Figure("lpips", "LPIPS (Alex)", "lpips", False),
            Figure("dists", "DISTS", "dists", False),
        ]
    return tuple(found)


class Envelope(NamedTuple):
    """Points that no other beats, smallest rate first: rates above 0, and figures."""

    rate: NDArray[np.float64]
    value: NDArray[np.float64]

    def at(self, rate: float) -> float | None:
        """Return the figure at a rate, interpolated over log rate; None below the first point.

        Beyond the last point it stays: nobody need send more bytes for a worse picture.
        """
        if not len(self.rate) or rate < self.rate[0]:
            return None
        # Twice the bytes are one step at any rate, as on the plots' logarithmic axis.
        return float(np.interp(np.log(rate), np.log(self.rate), self.value))


def envelope(records: Sequence[Record], name: str, *, higher: bool, rate: str = RATE) -> Envelope:
    """Return the best of a codec's settings in one figure; undefined figures are left out.

    >>> points = [{"b": 100, "psnr": 20}, {"b": 150, "psnr": 19}, {"b": 400, "psnr": 24}]
    >>> best = envelope(points, "psnr", higher=True, rate="b")
    >>> best.rate.tolist(), best.at(99), best.at(200), best.at(999)
    ([100.0, 400.0], None, 22.0, 24.0)
    """
    known = [r for r in records if r.get(name) is not None and np.isfinite(r[name])]
    rates = np.array([float(r[rate]) for r in known])
    values = np.array([float(r[name]) for r in known])
    kept = non_dominated(rates, values if higher else -values)  # of distances the least is best
    return Envelope(rates[kept], values[kept])


class Wins(NamedTuple):
    """Our points against a rival: better, not better, and where it has no picture so small."""

    better: int
    worse: int
    below: int


def count_wins(ours: Sequence[Record], best: Envelope, figure: Figure) -> Wins:
    """Count our points, by the rival's figure at the same bytes; undefined figures are left out."""
    known = [r for r in ours if len(best.rate) and np.isfinite(r.get(figure.name, np.nan))]
    pairs = [(float(r[figure.name]), best.at(float(r["mean_bytes"]))) for r in known]
    reached = [(own, rival) for own, rival in pairs if rival is not None]
    better = sum(own > rival if figure.higher else own < rival for own, rival in reached)
    return Wins(better, len(reached) - better, len(pairs) - len(reached))
