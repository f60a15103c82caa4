"""The figures of faces, and what a run found by codec: ours, the rivals at our bytes, pixels.

``Facts`` of a run hold ``ours`` (start of our codecs' names), ``fingerprint``, ``data``,
``refused`` (pictures that the model takes for no faces, which are left out everywhere), ``side``,
``machine``, ``versions``, ``codecs``, ``left_out``, ``classifier``, ``metrics`` (SHA-256 of the
weights of LPIPS and DISTS, None where they were left out), ``records``, and maybe ``speed`` (see
``attribute_times``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.bench.bjontegaard import non_dominated
from cdvision.evaluation.picture_distance.structural_similarity import scales
from cdvision.evaluation.plot import Curve, write_plot
from cdvision.evaluation.rivals import RIVALS
from cdvision.models.faces.bench.paths import UNCOMPRESSED

Facts = Mapping[str, Any]
Record = Mapping[str, Any]
RATE = "mean_payload_bytes"
"""What counts as a rival's bytes: its files freed of their containers, the kindest count."""
PLOTTED_BYTES = 600  # up to which attributes are drawn


@dataclass(frozen=True)
class Figure:
    """One column of the tables."""

    name: str  # entry of our records
    title: str  # for people
    rival: str  # entry of the rivals' records that it is held against
    higher: bool = True  # whether more is better
    digits: int = 3  # behind the point


ATTRIBUTES = (
    Figure("accuracy", "mean accuracy", "accuracy"),
    Figure("balanced_accuracy", "balanced accuracy", "balanced_accuracy"),
    Figure("average_precision", "mean AP", "average_precision"),
)
RECONSTRUCTIONS = (
    Figure("picture_accuracy", "mean accuracy on the picture", "accuracy"),
    Figure("picture_balanced_accuracy", "balanced accuracy on the picture", "balanced_accuracy"),
)


def figures_of(facts: Facts) -> tuple[Figure, ...]:
    """Return the figures that a report shows; distances by networks where they were measured."""
    found = (
        *ATTRIBUTES,
        *RECONSTRUCTIONS,
        Figure("psnr", "PSNR, dB", "psnr", digits=2),
        Figure("ms_ssim", f"MS-SSIM ({scales(facts['side'])} scales)", "ms_ssim"),
    )
    if facts["metrics"] is None:
        return found
    lpips = Figure("lpips", "LPIPS (Alex)", "lpips", higher=False)
    return (*found, lpips, Figure("dists", "DISTS", "dists", higher=False))


def our_records(facts: Facts) -> list[Record]:
    """Return the records of our streams, by quality and layers."""
    own = [r for r in facts["records"] if str(r["codec"]).startswith(facts["ours"])]
    return sorted(own, key=lambda r: (r["quality"], r["layers"]))


def rival_records(facts: Facts) -> dict[str, list[Record]]:
    """Return the rivals' records by codec."""
    found: dict[str, list[Record]] = {}
    for record in facts["records"]:
        codec = str(record["codec"])
        if codec != UNCOMPRESSED and not codec.startswith(facts["ours"]):
            found.setdefault(codec, []).append(record)
    return found


def pixel_record(facts: Facts) -> Record | None:
    """Return what the classifier makes of the original pixels, where it was measured."""
    return next((r for r in facts["records"] if r["codec"] == UNCOMPRESSED), None)


def title_of(codec: str) -> str:
    """Return a codec's name for people."""
    return RIVALS[codec].title if codec in RIVALS else codec


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


def best_of(records: Sequence[Record], figure: Figure) -> Envelope:
    """Return the best of a rival's settings in what one of our figures is held against."""
    return envelope(records, figure.rival, higher=figure.higher)


def count_wins(ours: Sequence[Record], best: Envelope, figure: Figure) -> tuple[int, int, int]:
    """Count our points against a rival: better, not better, and where it has no picture so small.

    The rival's figure is that at the same bytes; undefined figures are left out.
    """
    known = [r for r in ours if len(best.rate) and np.isfinite(r.get(figure.name, np.nan))]
    pairs = [(float(r[figure.name]), best.at(float(r["mean_bytes"]))) for r in known]
    reached = [(own, rival) for own, rival in pairs if rival is not None]
    better = sum(own > rival if figure.higher else own < rival for own, rival in reached)
    return better, len(reached) - better, len(pairs) - len(reached)


def draw_figure(path: Path, facts: Facts, figure: Figure) -> None:
    """Plot our points by layers, and the rivals' envelopes; attributes up to 600 bytes only."""
    answers = figure in (*ATTRIBUTES, *RECONSTRUCTIONS)
    most = PLOTTED_BYTES if answers else float("inf")
    curves = [*_own_curves(facts, figure, most), *_rival_curves(facts, figure, most)]
    if not curves:
        return
    pixels = pixel_record(facts) if answers else None
    better = "" if figure.higher else ", lower is better"
    write_plot(
        path,
        curves,
        title=f"{facts['data']}, {facts['records'][0]['photos']} faces",
        y_label=f"{figure.title}{better}; bars: 95 % interval",
        reference=float(pixels[figure.rival]) if pixels is not None else None,
        reference_label="classifier on the original pixels",
    )


def _own_curves(facts: Facts, figure: Figure, most: float) -> Iterator[Curve]:
    by_codec: dict[str, list[Record]] = {}
    for record in our_records(facts):
        known = np.isfinite(record.get(figure.name, np.nan))
        if record["mean_bytes"] <= most and known:
            by_codec.setdefault(str(record["codec"]), []).append(record)
    for codec, found in by_codec.items():
        ends = [[r.get(f"{figure.name}_{end}") for r in found] for end in ("low", "high")]
        # Bars where every point has one: half a curve with bars would look measured twice.
        whole = all(value is not None for values in ends for value in values)
        yield Curve(
            codec,
            [float(r["mean_bytes"]) for r in found],
            [float(r[figure.name]) for r in found],
            *(ends if whole else ()),
        )


def _rival_curves(facts: Facts, figure: Figure, most: float) -> Iterator[Curve]:
    for codec, found in rival_records(facts).items():
        best = best_of(found, figure)
        kept = best.rate <= most
        boxed = any(r[RATE] < r["mean_bytes"] for r in found)
        if kept.any():
            name = title_of(codec) + (", no container" if boxed else "")
            yield Curve(name, best.rate[kept].tolist(), best.value[kept].tolist())
