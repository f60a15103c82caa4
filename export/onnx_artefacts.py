"""``cdvision export --to onnx``: stand-alone graphs, checked, compared and timed.

::

    package ─ stand-alone graph ─ (quantise) ─ check ─ write ─ parity ─ model.json, report.json

The folder is a model package again: `cdvision.load(DIR)` answers from the exported graphs. PyTorch
only serves as the reference, where it is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from cdvision.engines import OpenGraph
from cdvision.engines.onnx_engine import OnnxGraph
from cdvision.errors import ModelError
from cdvision.export.export_run import ExportReport, ExportRun, GraphReport
from cdvision.export.parity import paired_milliseconds
from cdvision.export.partial_package import copy_tables, write_card
from cdvision.export.quantise import quantisable_nodes, quantised_graph
from cdvision.export.standalone_graph import graph_names, opset_of, standalone_graph
from cdvision.model import Model
from cdvision.photo import ImageLike


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
    run = ExportRun.prepare(model, precision, photos, calibration)
    reports = [
        export_graph_file(run, graph, folder / f"{graph}.onnx", folder)
        for graph in graph_names(model.package)
    ]
    files = [*copy_tables(model.package, folder), *(graph.file for graph in reports)]
    # The card's figures were measured in float: INT8 has to be measured again.
    measured = () if precision == "int8" else model.card.metrics
    write_card(replace(model.card, metrics=measured), folder, files)
    return run.report("onnx", reports, folder).write()


def export_graph_file(run: ExportRun, graph: str, path: Path, folder: Path) -> GraphReport:
    """Write one graph below the report's folder, compare it with the reference and time it.

    Raises:
        ModelError: it differs by too much; the file is removed.
    """
    package, precision = run.model.package, run.precision
    proto = standalone_graph(package, graph, half_weights=precision == "fp16")
    notes: dict[str, object] = {}
    candidates: dict[str, OpenGraph] = {}
    if precision == "int8":
        # Timed in the same rounds: only so do the times of float and INT8 compare.
        candidates["fp32"] = OnnxGraph(proto.SerializeToString())
        layers = len(quantisable_nodes(proto))
        notes = {"quantised_layers": layers, "fp32_bytes": proto.ByteSize()}
        proto = quantised_graph(proto, run.calibration.get(graph, ()))
    write_graph(proto, path)
    candidates[precision] = OnnxGraph(str(path))
    return replace(
        graph_report(proto, path, folder),
        parity=run.compare_file(graph, path, candidates[precision]),
        milliseconds=paired_milliseconds(candidates, run.recorded.get(graph, [])),
        notes=notes,
    )


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


def graph_report(proto: onnx.ModelProto, path: Path, folder: Path) -> GraphReport:
    """Describe a written graph from its own metadata; nothing is compared yet."""
    described = {prop.key: prop.value for prop in proto.metadata_props}
    inputs, outputs = (
        {k.removeprefix(kind): text for k, text in described.items() if k.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return GraphReport(
        graph=described["cdvision.graph"],
        file=str(path.relative_to(folder)),
        bytes=path.stat().st_size,
        opset=opset_of(proto),
        inputs=inputs,
        outputs=outputs,
    )
