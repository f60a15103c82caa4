"""``cdvision export --to tensorrt``: graphs, build script and, where TensorRT is, checked engines.

::

    stand-alone graph ─ precision in its types ─ ONNX file ─┬─ build_engines.sh
                                                           └─ build ─ parity ─ keep or refuse

An engine is kept only where its outputs agree with a reference: releases of TensorRT have been
silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from cdvision.engines.onnx_engine import OnnxGraph
from cdvision.engines.plan_cache import PlanCache, PlanKey, Profile, covers, model_sha256
from cdvision.engines.tensorrt_runtime import TensorrtRuntime, tensorrt_installed
from cdvision.errors import CdvisionError, ModelError
from cdvision.export.export_run import ExportReport, ExportRun, GraphReport
from cdvision.export.half_precision import half_graph
from cdvision.export.onnx_artefacts import graph_report, write_graph
from cdvision.export.parity import TOLERANCES, check, largest_differences, paired_milliseconds
from cdvision.export.quantise import quantised_graph
from cdvision.export.recorded_inputs import Inputs
from cdvision.export.standalone_graph import graph_names, standalone_graph
from cdvision.export.tensorrt_operators import unsupported
from cdvision.export.tensorrt_profiles import ShapeRange
from cdvision.export.trtexec_script import PlannedBuild, write_script
from cdvision.model import Model
from cdvision.photo import ImageLike

NOT_BUILT = "not built here; the graphs for them were compared in ONNX Runtime"


@dataclass(frozen=True)
class TensorrtOptions:
    """How engines are built.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` (computed in half precision), or ``"int8"`` (with heads
            in half precision).
        shapes: what the engines must take.
        workspace_bytes: scratch memory that tactics may use.
    """

    precision: str
    shapes: ShapeRange
    workspace_bytes: int = 2**30


def typed_graph(
    model: Model, graph: str, precision: str, calibration: Sequence[Inputs] = ()
) -> onnx.ModelProto:
    """Return the graph whose types ask a strongly typed engine for a precision.

    Raises:
        ModelError: it has an operator or type that TensorRT's parser does not take.
    """
    proto = standalone_graph(model.package, graph)
    if precision == "fp16":
        proto = half_graph(proto)
    elif precision == "int8":
        # Half precision after INT8: what quantisation left in float are the heads.
        proto = half_graph(quantised_graph(proto, calibration, for_tensorrt=True))
    faults = unsupported(proto)
    if faults:
        raise ModelError(f"{model.name}: {graph}: TensorRT does not take {'; '.join(faults[:5])}")
    return proto


def write_tensorrt(
    model: Model,
    folder: Path,
    options: TensorrtOptions,
    *,
    photos: Sequence[ImageLike] = (),
    calibration: Sequence[ImageLike] = (),
    runtime: TensorrtRuntime | None = None,
    elsewhere: bool = False,
) -> ExportReport:
    """Write typed ONNX files and ``build_engines.sh``; build, check and keep engines where it can.

    Where nothing is built, the typed graphs are compared with the reference in ONNX Runtime.

    Args:
        model: on any engine.
        folder: of ONNX files and engines; ``CDVISION_ENGINES`` may name it.
        options: precision, shapes and memory.
        photos: for parity; three drawn pictures where empty.
        calibration: photos that set the ranges of INT8.
        runtime: what builds; TensorRT's where it is installed, and none otherwise.
        elsewhere: the files are for another machine: build nothing here.

    Raises:
        ModelError: an engine or a graph differs from the reference by too much: it is not kept.
        EngineError: TensorRT cannot build a graph.
    """
    if runtime is None and not elsewhere and tensorrt_installed():
        runtime = TensorrtRuntime()
    run = ExportRun.prepare(model, options.precision, photos, calibration)
    builder = _Builder(run, folder, options, runtime)
    reports = [builder.export(graph) for graph in graph_names(model.package)]
    write_script(folder, builder.planned, workspace_bytes=options.workspace_bytes)
    engines = "built and checked" if runtime else NOT_BUILT
    return run.report("tensorrt", reports, folder, engines=engines).write()


class _Builder:
    """Builds the engines of one run."""

    def __init__(
        self,
        run: ExportRun,
        folder: Path,
        options: TensorrtOptions,
        runtime: TensorrtRuntime | None,
    ) -> None:
        self._run, self._folder = run, folder
        self._options, self._runtime = options, runtime
        self.planned: list[PlannedBuild] = []

    def export(self, graph: str) -> GraphReport:
        """Write one graph's ONNX file, and build its engine where there is a runtime."""
        precision = self._run.precision
        calibration = self._run.calibration.get(graph, ())
        proto = typed_graph(self._run.model, graph, precision, calibration)
        path = write_graph(proto, self._folder / precision / f"{graph}.onnx")
        profile = self._options.shapes.profile(proto)
        # A folder of its own: these plans are checked by nobody, and the engine finds none of them.
        plan = Path("trtexec") / f"{graph}-{precision}.plan"
        self.planned.append(PlannedBuild(path.relative_to(self._folder), plan, profile))
        report = graph_report(proto, path, self._folder)
        if self._runtime is not None:
            return self._build(report, path, profile, self._runtime)
        # The graph that an engine will be built from: its types may lose too much.
        return replace(report, parity=self._run.compare_file(graph, path, OnnxGraph(str(path))))

    def _build(
        self, report: GraphReport, path: Path, profile: Profile, runtime: TensorrtRuntime
    ) -> GraphReport:
        key = PlanKey(
            self._run.model.name,
            model_sha256(self._run.model.card),
            report.graph,
            self._run.precision,
            runtime.version,
            runtime.compute_capability,
            profile,
        )
        # Measured times hold for one TensorRT on one kind of GPU, as plans do.
        timing = f"timing-trt{key.tensorrt}-sm{key.compute_capability.replace('.', '')}.cache"
        plan = runtime.build_plan(
            path,
            profile,
            workspace_bytes=self._options.workspace_bytes,
            timing_cache=self._folder / timing,
        )
        engine = runtime.open_plan(plan)
        runs = self._runs_within(report.graph, profile)
        # How far INT8 is from float only accuracy tells: its engine must be the graph it is built
        # from. All others must be the package's own graph.
        if key.precision == "int8":
            reference = OnnxGraph(str(path)).run
        else:
            reference = partial(self._run.reference.run, key.graph)
        parity = largest_differences(engine, reference, runs)
        check(f"{key.model}: {key.graph}", parity, TOLERANCES[key.precision])
        apart = {name: item.relative for name, item in parity.items()}
        stored = PlanCache(self._folder).store(key, plan, {"largest_differences": apart})
        return replace(
            report,
            file=stored.name,
            bytes=len(plan),
            parity=tuple(parity.values()),
            milliseconds=paired_milliseconds({"engine": engine}, runs),
        )

    def _runs_within(self, graph: str, profile: Profile) -> list[Inputs]:
        runs = self._run.recorded.get(graph, [])
        fitting = [r for r in runs if covers(profile, {n: v.shape for n, v in r.items()})]
        if not fitting:
            raise CdvisionError(
                f"{graph}: no engine is kept unchecked, and no photo's inputs fit the sizes and "
                "batches asked for: allow a batch of 1 and the photos' sizes, or pass other photos"
            )
        return fitting
