"""One run of ``cdvision export``: what all graphs of a model share, and ``report.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cdvision.engines import Engine, OpenGraph
from cdvision.errors import ModelError
from cdvision.export.parity import (
    FINITE,
    TOLERANCES,
    Difference,
    check,
    largest_differences,
    reference_engine,
)
from cdvision.export.recorded_inputs import Recorded, drawn_photos, record_inputs
from cdvision.machine import machine, versions
from cdvision.model import Model
from cdvision.photo import ImageLike

PRECISIONS = ("fp32", "fp16", "int8")
DISTRIBUTIONS = ("cdvision", "numpy", "onnx", "onnxruntime", "torch", "tensorrt")


@dataclass(frozen=True)
class GraphReport:
    """One exported graph.

    Attributes:
        file: relative to the report's folder.
        inputs: name -> type and axes; ``outputs`` likewise.
        parity: largest differences of every output from the reference.
        milliseconds: median of a run, by candidate, all in the same rounds on this machine.
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

    def __str__(self) -> str:
        """One line: file, size, worst relative difference, times."""
        line = f"  {self.file}  {self.bytes / 1e6:.2f} MB"
        if self.parity:
            line += f"  largest difference {max(item.relative for item in self.parity):.1e}"
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        return f"{line}  {times}".rstrip()


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

    def write(self) -> ExportReport:
        """Write ``report.json`` into the folder and return the report."""
        text = json.dumps(self.to_dict(), indent=1)
        (self.folder / "report.json").write_text(text + "\n", encoding="utf-8")
        return self

    def __str__(self) -> str:
        """What was exported, and one line a graph."""
        head = f"{self.model} for {self.target}, {self.precision}, in {self.folder}"
        return "\n".join([head, *map(str, self.graphs)])


@dataclass(frozen=True)
class ExportRun:
    """A model, a precision, and what the graphs are compared with.

    Attributes:
        precision: one of ``PRECISIONS``.
        recorded: inputs of every graph, for parity and times.
        calibration: inputs that set the ranges of INT8; empty in other precisions.
        photos: how many of the user's photos ``recorded`` comes from.
        reference: runs the package's own graphs; ``reference_name`` says what it is.
    """

    model: Model
    precision: str
    recorded: Recorded
    calibration: Recorded
    photos: int
    reference: Engine
    reference_name: str

    @classmethod
    def prepare(
        cls,
        model: Model,
        precision: str = "fp32",
        photos: Sequence[ImageLike] = (),
        calibration: Sequence[ImageLike] = (),
    ) -> ExportRun:
        """Run the model on photos, or on three drawn pictures where there is none.

        Raises:
            ModelError: an unknown precision.
        """
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ModelError(f"precision: expected one of {known}, found {precision!r}")
        recorded = record_inputs(model, photos or drawn_photos())
        calibrated = record_inputs(model, calibration) if precision == "int8" else {}
        name, reference = reference_engine(model.package)
        return cls(model, precision, recorded, calibrated, len(photos), reference, name)

    def compare_file(self, graph: str, path: Path, candidate: OpenGraph) -> tuple[Difference, ...]:
        """Return how far a written graph, opened as ``candidate``, is from the reference.

        Raises:
            ModelError: too far; the file is removed.
        """
        # None of the encoder where streams came in place of photos: nothing is compared then.
        runs = self.recorded.get(graph, [])
        found = largest_differences(candidate, partial(self.reference.run, graph), runs)
        # How far INT8 is from float only accuracy tells: there nothing but NaN is refused.
        tolerance = FINITE if self.precision == "int8" else TOLERANCES[self.precision]
        try:
            check(f"{self.model.name}: {graph}", found, tolerance)
        except ModelError:
            path.unlink()
            raise
        return tuple(found.values())

    def report(
        self, target: str, graphs: Sequence[GraphReport], folder: Path, **notes: Any
    ) -> ExportReport:
        """Describe the run, for ``ExportReport.write``."""
        return ExportReport(
            self.model.name,
            target,
            self.precision,
            self.reference_name,
            self.photos,
            tuple(graphs),
            folder,
            notes,
        )
