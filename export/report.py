"""``report.json``: what was exported, with which versions, how close it is and how fast."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cdvision.export.differences import Difference
from cdvision.machine import machine, versions

REPORT_FILE = "report.json"
DISTRIBUTIONS = ("cdvision", "numpy", "onnx", "onnxruntime", "torch", "tensorrt")


@dataclass(frozen=True)
class GraphReport:
    """One exported graph.

    Attributes:
        graph: its name.
        file: relative to the report's folder.
        bytes: of that file.
        opset: of the standard operators.
        inputs: name -> type and axes.
        outputs: name -> type and axes.
        parity: largest differences of every output from the reference.
        milliseconds: median of a run, by candidate, all in the same rounds on this machine.
        notes: what else a reader should know.
    """

    graph: str
    file: str
    bytes: int
    opset: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    parity: tuple[Difference, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportReport:
    """One run of ``cdvision export``; paths are relative to ``folder``."""

    model: str
    target: str
    precision: str
    reference: str
    photos: int
    graphs: tuple[GraphReport, ...]
    folder: Path
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values, with versions and machine."""
        values = asdict(self)
        del values["folder"]
        return {**values, "versions": versions(*DISTRIBUTIONS), "machine": machine()}

    def write(self) -> Path:
        """Write ``report.json`` into the folder and return its path."""
        path = self.folder / REPORT_FILE
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    def __str__(self) -> str:
        """One line a graph: size, worst relative difference, times."""
        head = f"{self.model} for {self.target}, {self.precision}, in {self.folder}"
        return "\n".join([head, *(_line(graph) for graph in self.graphs)])


def _line(graph: GraphReport) -> str:
    line = f"  {graph.file}  {graph.bytes / 1e6:.2f} MB"
    if graph.parity:
        apart = max(item.relative for item in graph.parity)
        line += f"  largest difference {apart:.1e}"
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in graph.milliseconds.items())
    return f"{line}  {times}".rstrip()
