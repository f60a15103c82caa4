"""What a fit tells of its tap: a table, JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.evaluation.plot import Curve, write_plot
from cdvision.fit.measure import QualityFigures

REPORT_FILE, PLOT_FILE = "report.json", "report.svg"
SHOWN = 3  # photos that were left out, by name


@dataclass(frozen=True)
class FitReport:
    """How well a tap does, on photos that it was not fitted on.

    Attributes:
        name: of the tap.
        folder: of the tap.
        model: whose streams it reads.
        network: where the network came from, split point and weights.
        pixels: what the network expects of its input.
        features: channels and stride at the split point.
        photos: fitted on.
        held_out: measured on.
        steps: of training.
        minutes: of training.
        parameters: of the tap.
        left_out: reason for each photo that could not be used, by name.
        qualities: figures of each quality, the lowest first.
        answers: whether ``answer.NAME`` is there; else why not.
    """

    name: str
    folder: Path
    model: str
    network: Mapping[str, Any]
    pixels: str
    features: tuple[int, int]
    photos: int
    held_out: int
    steps: int
    minutes: float
    parameters: int
    left_out: Mapping[str, str]
    qualities: Sequence[QualityFigures]
    answers: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        values = {**vars(self), "folder": str(self.folder), "left_out": dict(self.left_out)}
        return {**values, "qualities": [one.to_dict() for one in self.qualities]}

    def __str__(self) -> str:
        network = f"{self.network['source']} at {self.network['split']}"
        lines = [
            f"{self.name}: {network} ({self.features[0]} channels at 1/{self.features[1]}) from "
            f"streams of {self.model}; input {self.pixels}",
            f"fitted on {self.photos} photos ({self.steps} steps, {self.minutes:.1f} min, "
            f"{self.parameters / 1e6:.1f} M parameters), measured on {self.held_out} others:",
            *_table(self.qualities),
        ]
        if self.left_out:
            lines.append(left_out_line(self.left_out))
        if self.answers:
            lines.append(f"without the network's outputs: {self.answers}")
        return "\n".join(lines)


def _table(qualities: Sequence[QualityFigures]) -> list[str]:
    top1 = qualities[0].top1 is not None
    head = "quality  bytes  explained variance  output cosine"
    head += f"{'  same top-1' if top1 else ''}  neighbours kept"
    rows = [
        f"{one.quality:>7}  {one.bytes:>5.0f}  {one.explained_variance:>18.3f}  {one.cosine:>13.3f}"
        + (f"  {one.top1:>10.3f}" if one.top1 is not None else "")
        + f"  {one.neighbours:>15.3f}"
        for one in qualities
    ]
    return [head, *rows]


def left_out_line(left_out: Mapping[str, str]) -> str:
    """Say in one line which photos could not be used, and why the first ones could not."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:SHOWN])
    more = len(left_out) - SHOWN
    photos = "1 photo was" if len(left_out) == 1 else f"{len(left_out)} photos were"
    return f"{photos} left out: {shown}{f'; and {more} more' if more > 0 else ''}"


def write_report(report: FitReport) -> None:
    """Write ``report.json``, and ``report.svg`` where matplotlib is installed."""
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    (report.folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    rates = [one.bytes for one in report.qualities]
    curves = [
        Curve("explained variance", rates, [q.explained_variance for q in report.qualities]),
        Curve("output cosine", rates, [q.cosine for q in report.qualities]),
        Curve("neighbours kept", rates, [q.neighbours for q in report.qualities]),
    ]
    top1 = [q.top1 for q in report.qualities if q.top1 is not None]
    if len(top1) == len(rates):
        curves.append(Curve("same top-1", rates, top1))
    title = f"{report.name}: what streams of {report.model} keep"
    try:
        write_plot(report.folder / PLOT_FILE, curves, title=title, y_label="share of the network's")
    except CdvisionError:  # matplotlib is an extra; table and JSON hold the same figures
        return
