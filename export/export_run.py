"""One run of ``cdvision export``: what all graphs of a model share while they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cdvision.engines import Engine, OpenGraph
from cdvision.errors import ModelError
from cdvision.export.differences import FINITE, TOLERANCES, Difference, check
from cdvision.export.parity import largest_differences, reference_engine
from cdvision.export.recorded_inputs import Recorded, drawn_photos, record_inputs
from cdvision.export.report import ExportReport, GraphReport
from cdvision.model import Model
from cdvision.photo import ImageLike

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportRun:
    """A model, a precision, and what the graphs are compared with.

    Attributes:
        model: on any engine.
        precision: one of ``PRECISIONS``.
        recorded: inputs of every graph, for parity and times.
        calibration: inputs that set the ranges of INT8; empty in other precisions.
        photos: how many of the user's photos ``recorded`` comes from.
        reference: runs the package's own graphs.
        reference_name: says what that is.
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
        """Return how far a written graph is from the reference; it is removed where too far.

        How far INT8 is from float only accuracy tells: there nothing but NaN is refused.

        Args:
            graph: its name. Where no input was recorded (the encoder's, where streams came in
                place of photos), nothing is compared.
            path: of the file.
            candidate: the file, opened.

        Raises:
            ModelError: it was removed.
        """
        runs = self.recorded.get(graph, [])
        found = largest_differences(candidate, partial(self.reference.run, graph), runs)
        tolerance = FINITE if self.precision == "int8" else TOLERANCES[self.precision]
        try:
            check(f"{self.model.name}: {graph}", found, tolerance)
        except ModelError:
            path.unlink()
            raise
        return tuple(found.values())

    def write_report(
        self,
        target: str,
        graphs: Sequence[GraphReport],
        folder: Path,
        notes: Mapping[str, Any] | None = None,
    ) -> ExportReport:
        """Write ``report.json`` into a folder and return what stands in it."""
        report = ExportReport(
            self.model.name,
            target,
            self.precision,
            self.reference_name,
            self.photos,
            tuple(graphs),
            folder,
            notes or {},
        )
        report.write()
        return report
