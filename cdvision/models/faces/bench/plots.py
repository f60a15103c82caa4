"""Plots of faces: our points by layers beside the rivals' best, one figure at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cdvision.evaluation.plot import Curve, write_plot
from cdvision.models.faces.bench.figures import (
    ATTRIBUTES,
    RATE,
    RECONSTRUCTIONS,
    Facts,
    Figure,
    Record,
    best_of,
    our_records,
    pixel_record,
    rival_records,
    title_of,
)

PLOTTED_BYTES = 600  # up to which attributes are drawn


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
