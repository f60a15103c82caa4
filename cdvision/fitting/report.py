"""What a fit tells of its tap: a table, JSON, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.evaluation.plot import Curve, write_plot
from cdvision.fitting.measure import QualityFigures
from cdvision.training.plan import Plan

REPORT_FILE, PLOT_FILE = "report.json", "report.svg"
SHOWN = 3  # photos that were left out, by name
COLUMNS = {
    "explained variance": "explained_variance",
    "output cosine": "cosine",
    "same top-1": "top1",
    "neighbours kept": "neighbours",
}
"""Head of a column, and name of a curve -> field of ``QualityFigures``."""


@dataclass(frozen=True)
class FitReport:
    """How well a tap does, on photos that it was not fitted on."""

    name: str  # of the tap
    folder: Path  # of the tap
    model: str  # whose streams it reads
    network: Mapping[str, Any]  # where the network came from, split point and weights
    pixels: str  # what the network expects of its input
    features: tuple[int, int]  # channels and stride at the split point
    photos: int  # fitted on
    held_out: int  # photos measured on
    steps: int  # of training
    minutes: float  # of training
    parameters: int  # of the tap
    left_out: Mapping[str, str]  # reason for each photo that could not be used, by name
    qualities: Sequence[QualityFigures]  # figures of each quality, the lowest first
    answers: str = ""  # why `answer.NAME` is missing; empty where it is there

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
            *self._table(),
        ]
        if self.left_out:
            lines.append(left_out_line(self.left_out))
        if self.answers:
            lines.append(f"without the network's outputs: {self.answers}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write ``report.json``, and ``report.svg`` where matplotlib is installed."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (self.folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
        rates = [one.bytes for one in self.qualities]
        curves = [Curve(label, rates, values) for label, values in self._columns().items()]
        title = f"{self.name}: what streams of {self.model} keep"
        path = self.folder / PLOT_FILE
        with suppress(CdvisionError):  # matplotlib is an extra; the JSON holds the same figures
            write_plot(path, curves, title=title, y_label="share of the network's")

    def _columns(self) -> dict[str, list[float]]:
        """Return the figures of all qualities by name, but those that the network has none of."""
        columns = {
            label: [getattr(one, field) for one in self.qualities]
            for label, field in COLUMNS.items()
        }
        return {label: values for label, values in columns.items() if None not in values}

    def _table(self) -> list[str]:
        columns = self._columns()
        rows = ["  ".join(["quality", "bytes", *columns])]
        for place, one in enumerate(self.qualities):
            values = [f"{column[place]:>{len(label)}.3f}" for label, column in columns.items()]
            rows.append("  ".join([f"{one.quality:>7}", f"{one.bytes:>5.0f}", *values]))
        return rows


def left_out_line(left_out: Mapping[str, str]) -> str:
    """Say in one line which photos could not be used, and why the first ones could not."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:SHOWN])
    more = len(left_out) - SHOWN
    photos = "1 photo was" if len(left_out) == 1 else f"{len(left_out)} photos were"
    return f"{photos} left out: {shown}{f'; and {more} more' if more > 0 else ''}"


def length_line(photos: int, before: str, plan: Plan) -> str:
    """Say in one line how long a run takes, and what it does ``before`` its training."""
    length = f"{plan.minutes:g} minutes" if plan.steps is None else f"{plan.steps} steps"
    return (
        f"{photos} photos: {before}, then {length} of training"
        f"{' in bfloat16' if plan.bf16 else ''} on {plan.device.type}, then the report"
    )
