"""``cdvision export --to onnx``: stand-alone graphs, checked, compared and timed.

::

    package ─ stand-alone graph ─ (quantise) ─ check ─ write ─ parity ─ model.json, report.json

The folder is a model package again: `cdvision.load(DIR)` answers from the exported graphs, and
`cdvision eval --model DIR` measures them.

Starts from the package's ONNX files, not from a trace: PyTorch only serves as the reference, where
it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from cdvision.engines import Engine
from cdvision.errors import ModelError
from cdvision.export.differences import FINITE, TOLERANCES, Difference, check
from cdvision.export.parity import (
    OnnxGraph,
    OpenGraph,
    largest_differences,
    paired_milliseconds,
    reference_engine,
)
from cdvision.export.partial_package import copy_tables, write_card
from cdvision.export.quantise import quantisable_nodes, quantised_graph
from cdvision.export.recorded_inputs import Inputs, Recorded, drawn_photos, record_inputs
from cdvision.export.report import ExportReport, GraphReport
from cdvision.export.standalone_graph import graph_names, opset_of, standalone_graph
from cdvision.model import Model
from cdvision.photo import ImageLike

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportInputs:
    """What a model's graphs receive from photos.

    Attributes:
        recorded: inputs for parity and times.
        calibration: inputs for INT8; empty where none was asked for.
        photos: how many photos ``recorded`` comes from.
    """

    recorded: Recorded
    calibration: Recorded
    photos: int

    @classmethod
    def from_photos(
        cls,
        model: Model,
        photos: Sequence[ImageLike] = (),
        calibration: Sequence[ImageLike] = (),
    ) -> ExportInputs:
        """Run the model on photos; on three drawn pictures where there is none."""
        recorded = record_inputs(model, photos or drawn_photos())
        calibrated = record_inputs(model, calibration) if calibration else {}
        return cls(recorded, calibrated, len(photos))


def write_onnx(
    model: Model,
    folder: Path,
    *,
    precision: str = "fp32",
    photos: Sequence[ImageLike] = (),
    calibration: Sequence[ImageLike] = (),
) -> ExportReport:
    """Write every graph of a model as a stand-alone ONNX file; a package, with ``report.json``.

    Args:
        model: on any engine.
        folder: made where missing.
        precision: ``"fp32"``; ``"fp16"`` for half-precision weights (results stay float32);
            ``"int8"`` for QDQ graphs.
        photos: for parity and times; three drawn pictures where empty.
        calibration: photos that set the ranges of INT8.

    Raises:
        ModelError: a graph is not valid, or differs from the reference by too much.
        CdvisionError: INT8 without calibration photos.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    inputs = ExportInputs.from_photos(model, photos, calibration if precision == "int8" else ())
    name, reference = reference_engine(model.package)
    reports = [
        export_graph_file(
            model, graph, folder / f"{graph}.onnx", folder, precision, inputs, reference
        )
        for graph in graph_names(model.package)
    ]
    files = [*copy_tables(model.package, folder), *(graph.file for graph in reports)]
    # The card's figures were measured in float: INT8 has to be measured again.
    measured = () if precision == "int8" else model.card.metrics
    write_card(replace(model.card, metrics=measured), folder, files)
    report = ExportReport(
        model.name, "onnx", precision, name, inputs.photos, tuple(reports), folder
    )
    report.write()
    return report


def export_graph_file(
    model: Model,
    graph: str,
    path: Path,
    folder: Path,
    precision: str,
    inputs: ExportInputs,
    reference: Engine,
) -> GraphReport:
    """Write one graph, compare it with the reference and time it.

    Args:
        model: whose graph it is.
        graph: its name.
        path: of the file, below ``folder``.
        folder: of the report.
        precision: see ``write_onnx``.
        inputs: what the graphs receive from photos.
        reference: runs the package's own graphs.

    Raises:
        ModelError: it differs by too much; the file is removed.
    """
    proto = graph_of_precision(model, graph, precision, inputs.calibration.get(graph, ()))
    write_graph(proto, path)
    candidate = OnnxGraph(str(path))
    runs = inputs.recorded.get(graph, [])
    parity = largest_differences(graph, candidate, reference, runs) if runs else {}
    keep_if_close(path, f"{model.name}: {graph}", parity, precision)
    candidates: dict[str, OpenGraph] = {precision: candidate}
    notes: dict[str, object] = {}
    if precision == "int8":
        plain = standalone_graph(model.package, graph)
        candidates["fp32"] = OnnxGraph(plain.SerializeToString())
        layers = len(quantisable_nodes(plain))
        notes = {"quantised_layers": layers, "fp32_bytes": plain.ByteSize()}
    return graph_report(
        proto,
        path,
        folder,
        parity=tuple(parity.values()),
        milliseconds=paired_milliseconds(candidates, runs) if runs else {},
        notes=notes,
    )


def keep_if_close(path: Path, name: str, parity: Mapping[str, Difference], precision: str) -> None:
    """Remove a written graph and raise ModelError where it differs by too much.

    How far INT8 is from float only accuracy tells: there nothing but NaN is refused.
    """
    tolerance = FINITE if precision == "int8" else TOLERANCES[precision]
    try:
        check(name, parity, tolerance)
    except ModelError:
        path.unlink()
        raise


def graph_of_precision(
    model: Model,
    graph: str,
    precision: str,
    calibration: Sequence[Inputs] = (),
) -> onnx.ModelProto:
    """Return one stand-alone graph; see ``write_onnx`` for the precisions."""
    proto = standalone_graph(model.package, graph, half_weights=precision == "fp16")
    if precision == "int8":
        return quantised_graph(proto, calibration)
    return proto


def write_graph(proto: onnx.ModelProto, path: Path) -> Path:
    """Write and check a graph; raises ModelError where ONNX's checker refuses the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, str(path))
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker's and the inference's errors share no base
        path.unlink()
        raise ModelError(f"{path}: not valid ONNX ({error})") from error
    return path


def graph_report(proto: onnx.ModelProto, path: Path, folder: Path, **fields: object) -> GraphReport:
    """Describe a written graph from its own metadata; ``fields`` are those of ``GraphReport``."""
    described = {prop.key: prop.value for prop in proto.metadata_props}
    report: Callable[..., GraphReport] = GraphReport
    return report(
        graph=described["cdvision.graph"],
        file=str(path.relative_to(folder)),
        bytes=path.stat().st_size,
        opset=opset_of(proto),
        inputs=_values(described, "input."),
        outputs=_values(described, "output."),
        **fields,
    )


def _values(described: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {k.removeprefix(prefix): v for k, v in described.items() if k.startswith(prefix)}
