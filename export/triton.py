"""``cdvision export --to triton``: a model repository for the Triton inference server.

::

    STREAM ─ <model>_decode ─▶ <model>_answer_<tail> ─▶ <model>_<task>_write ─ ANSWER
             (Python: tables)   (ONNX Runtime or TensorRT)  (Python: numpy)

One ensemble a task, ``<model>_<task>``, ties the three: bytes of a stream in, JSON out. cdvision's
wheel lies beside the models, for the Python of the server's Python backend.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cdvision.engines.plan_cache import PlanCache, model_sha256
from cdvision.errors import ModelError
from cdvision.export.bundle_install import write_wheel
from cdvision.export.export_run import ExportReport, ExportRun, GraphReport
from cdvision.export.graph_contract import tail_of
from cdvision.export.onnx_artefacts import export_graph_file
from cdvision.export.partial_package import copy_tables, write_card
from cdvision.export.standalone_graph import graph_names
from cdvision.export.triton_config import ServedModel, Tensor, ensemble_step
from cdvision.model import Model
from cdvision.package.graph_names import BASE, QUALITY, TAP
from cdvision.photo import ImageLike
from cdvision.tasks import find_task

PYTHON_MODEL = Path(__file__).with_name("triton_python_model.py")
LARGEST_BATCH = 16
# A part of every answer; what answers where one layer alone has arrived.
UNSERVED = (TAP, BASE)
STREAM, ANSWER = Tensor("STREAM", "string", (1,)), Tensor("ANSWER", "string", (1,))


def write_triton(
    model: Model,
    folder: Path,
    *,
    precision: str = "fp32",
    photos: Sequence[ImageLike] = (),
    calibration: Sequence[ImageLike] = (),
    engines: Path | None = None,
    wheel: Path | None = None,
) -> ExportReport:
    """Write a model repository, and ``report.json`` and cdvision's wheel beside its models.

    Args:
        model: on any engine.
        folder: of the repository.
        precision: of the graphs; photos and calibration too are as for ``write_onnx``.
        photos: for parity and times.
        calibration: for INT8.
        engines: folder of TensorRT engines that were built on the server, in place of the graphs.
        wheel: cdvision's wheel for the server; where None, pip makes one here.

    Raises:
        ModelError: a graph differs from the reference by too much, or an engine is missing.
        CdvisionError: pip makes no wheel.
    """
    repository = _Repository(model, folder, engines)
    run = ExportRun.prepare(model, precision, photos, calibration)
    reports = []
    for graph in graph_names(model.package):
        if graph not in model.card.sender_graphs and graph.partition(".")[0] not in UNSERVED:
            path = folder / repository.name_of(graph) / "1" / "model.onnx"
            reports.append(export_graph_file(run, graph, path, folder))
    repository.write(reports)
    write_wheel(folder, wheel)
    return run.report("triton", reports, folder).write()


class _Repository:
    """The folders of one model."""

    def __init__(self, model: Model, folder: Path, engines: Path | None) -> None:
        self._model, self._folder, self._engines = model, folder, engines
        self._name = model.name.replace(".", "_")

    def name_of(self, graph: str) -> str:
        """Name of a graph's model on the server."""
        return f"{self._name}_{graph.replace('.', '_')}"

    def write(self, reports: Sequence[GraphReport]) -> None:
        """Write configurations, Python models, ensembles and the package's tables."""
        graphs = {report.graph: self._write_graph(report) for report in reports}
        self._write_python(self._decode(graphs))
        # The part of the package that decodes and names classes: no weights, no graphs.
        tables = self._folder / f"{self._name}_decode" / "package"
        write_card(self._model.card, tables, copy_tables(self._model.package, tables))
        for task in [task for task in self._model.card.tasks if find_task(task).in_tables]:
            tail = self._model.card.tail_for(task) or ""
            answer = graphs[f"answer.{tail}"]
            heads = (f"box.{tail}", f"mask.{tail}")
            parts = {graph: served for graph, served in graphs.items() if graph in heads}
            writer = self._writer(task, tail, answer, parts)
            self._write_python(writer)
            self._write_config(self._ensemble(task, tail, answer, writer))

    def _write_graph(self, report: GraphReport) -> ServedModel:
        # Regions of one picture are no batch: the server must not join those of two.
        batch = 0 if report.graph.startswith(("box.", "mask.")) else LARGEST_BATCH
        name = self.name_of(report.graph)
        backend = "onnxruntime" if self._engines is None else "tensorrt"
        inputs, outputs = (
            [_tensor(name, text, batched=bool(batch)) for name, text in values.items()]
            for values in (report.inputs, report.outputs)
        )
        served = ServedModel(name, inputs, outputs, backend, batch)
        self._write_config(served)
        if self._engines is not None:
            self._place_plan(report.graph, self._folder / name / "1", self._engines)
        return served

    def _place_plan(self, graph: str, version: Path, engines: Path) -> None:
        cache, digest = PlanCache(engines), model_sha256(self._model.card)
        keys = [key for key in cache.plans(graph) if key.model_sha256 == digest]
        if not keys:
            raise ModelError(
                f"{engines}: no engine of {self._model.name} for {graph}: build them on the server "
                f"with `cdvision export {self._model.name} --to tensorrt {engines}`"
            )
        (version / "model.plan").write_bytes(cache.read(keys[0]))
        (version / "model.onnx").unlink()

    def _decode(self, graphs: dict[str, ServedModel]) -> ServedModel:
        outputs: dict[str, Tensor] = {}
        for graph, served in graphs.items():
            if graph.startswith("answer."):
                for tensor in served.inputs:
                    name = self._decoded_name(tail_of(graph) or "", tensor.name)
                    outputs[name] = replace(tensor, name=name, scalar=False)
        return ServedModel(
            f"{self._name}_decode",
            [STREAM],
            list(outputs.values()),
            "python",
            LARGEST_BATCH,
            {"package": "package"},
        )

    def _decoded_name(self, tail: str, name: str) -> str:
        shared = name in self._model.card.latents or name == QUALITY
        return name if shared else f"{tail}_{name}"

    def _writer(
        self, task: str, tail: str, answer: ServedModel, parts: dict[str, ServedModel]
    ) -> ServedModel:
        dense = [tensor for tensor in answer.outputs if tensor.name != "features"]
        called = {
            graph: {"model": part.name, "outputs": [tensor.name for tensor in part.outputs]}
            for graph, part in parts.items()
        }
        # Defaults: an ensemble's only input is a stream.
        options = {one.name: one.default for one in find_task(task).options if one.batched}
        parameters = {
            "package": f"../{self._name}_decode/package",
            "task": task,
            "tail": tail,
            "inputs": json.dumps([tensor.name for tensor in dense]),
            "graphs": json.dumps(called),
            "options": json.dumps(options),
        }
        name = f"{self._name}_{task}_write"
        return ServedModel(name, [STREAM, *dense], [ANSWER], "python", LARGEST_BATCH, parameters)

    def _ensemble(
        self, task: str, tail: str, answer: ServedModel, writer: ServedModel
    ) -> ServedModel:
        taken = {t.name: self._decoded_name(tail, t.name) for t in answer.inputs}
        dense = {t.name: f"{tail}_{t.name}" for t in writer.inputs if t.name != STREAM.name}
        steps = [
            ensemble_step(
                f"{self._name}_decode",
                {STREAM.name: STREAM.name},
                {name: f"decoded_{name}" for name in taken.values()},
            ),
            ensemble_step(
                answer.name, {n: f"decoded_{value}" for n, value in taken.items()}, dense
            ),
            ensemble_step(
                writer.name, {STREAM.name: STREAM.name, **dense}, {ANSWER.name: ANSWER.name}
            ),
        ]
        name = f"{self._name}_{task}"
        return ServedModel(name, [STREAM], [ANSWER], None, LARGEST_BATCH, steps=steps)

    def _write_python(self, served: ServedModel) -> None:
        self._write_config(served)
        shutil.copyfile(PYTHON_MODEL, self._folder / served.name / "1" / "model.py")

    def _write_config(self, served: ServedModel) -> None:
        place = self._folder / served.name
        (place / "1").mkdir(parents=True, exist_ok=True)  # an ensemble too has an (empty) version
        (place / "config.pbtxt").write_text(served.text(), encoding="utf-8")


def _tensor(name: str, described: str, *, batched: bool) -> Tensor:
    """Read a tensor from what a report says of it: ``int32 (batch, 128, h16, w16): ...``."""
    dtype, _, rest = described.partition(" (")
    axes = rest.partition(")")[0].split(", ")
    dims = tuple(int(axis) if axis.isdigit() else -1 for axis in axes)
    # The server adds the batch axis itself, and wants one axis at least behind it.
    dims = dims[1:] if batched else dims
    return Tensor(name, dtype, dims or (1,), scalar=not dims)
