"""TensorRT export and engine: all but the thin file that calls TensorRT, on ONNX Runtime.

The runtime below builds "plans" that are the ONNX files themselves and runs them in ONNX Runtime:
graphs, profiles, parity, cache and engine are the real ones, and really compute.
"""

from __future__ import annotations

import subprocess
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.engines.onnx_engine import OnnxEngine, OnnxGraph
from cdvision.engines.plan_cache import (
    FOLDER_VARIABLE,
    PlanCache,
    Profile,
    default_folder,
    model_sha256,
)
from cdvision.engines.tensorrt_engine import TensorrtEngine
from cdvision.engines.tensorrt_runtime import tensorrt_installed
from cdvision.errors import CdvisionError, EngineError, ModelError

pytest.importorskip("onnx")

from cdvision.export import tensorrt_builder
from cdvision.export.recorded_inputs import drawn_photos, record_inputs
from cdvision.export.tensorrt_builder import TensorrtOptions, typed_graph, write_tensorrt
from cdvision.export.tensorrt_profiles import ShapeRange

TINY = Path(__file__).parent / "packages" / "test-dicm-re"
SHAPES = ShapeRange((32, 416, 416), (1, 2, 4))


class OnnxPlans:
    """Builds and opens "plans" in ONNX Runtime; ``off`` spoils every output by a share."""

    version, compute_capability = "10.16.1", "8.7"

    def __init__(self, off: float = 0.0) -> None:
        self.off = off
        self.built: list[Path] = []

    def build_plan(
        self, graph: Path, profile: Profile, *, workspace_bytes: int, timing_cache: Path
    ) -> bytes:
        assert workspace_bytes > 0
        assert timing_cache.parent.is_dir()
        assert all(len(triple) == 3 for triple in profile.values())
        self.built.append(graph)
        return graph.read_bytes()

    def open_plan(self, plan: bytes) -> _Spoiled:
        return _Spoiled(OnnxGraph(plan, threads=1), self.off)


class _Spoiled:
    def __init__(self, graph: OnnxGraph, off: float) -> None:
        self._graph, self._off = graph, off

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        outputs = self._graph.run(inputs)
        return {n: v + (self._off * np.abs(v).max()).astype(v.dtype) for n, v in outputs.items()}


@pytest.fixture(scope="module")
def tiny() -> cdvision.Model:
    return cdvision.load(TINY, threads=1)


@pytest.fixture(scope="module")
def built(tiny: cdvision.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build all engines of the tiny model once."""
    folder = tmp_path_factory.mktemp("tensorrt")
    options = TensorrtOptions("fp16", SHAPES)
    report = write_tensorrt(tiny, folder, options, photos=drawn_photos()[:1], runtime=OnnxPlans())
    assert all(graph.parity and graph.file.endswith(".plan") for graph in report.graphs)
    return folder


# --- building


def test_every_graph_has_an_engine_with_its_record(built: Path, tiny: cdvision.Model) -> None:
    (key,) = PlanCache(built).plans("answer.detector")
    assert (key.tensorrt, key.compute_capability, key.precision) == ("10.16.1", "8.7", "fp16")
    assert key.model_sha256 == model_sha256(tiny.card)
    assert key.profile["symbols"] == ((1, 16, 1, 1), (2, 16, 13, 13), (4, 16, 13, 13))
    assert key.profile["quality"] == ((1,), (2,), (4,))
    (heads,) = PlanCache(built).plans("box.detector")
    assert heads.profile["regions"][2] == (1000, 8, 7, 7)


def test_an_engine_outside_tolerance_is_not_kept(tiny: cdvision.Model, tmp_path: Path) -> None:
    options = TensorrtOptions("fp32", SHAPES)
    runtime = OnnxPlans(off=1e-3)
    with pytest.raises(ModelError, match="is refused"):
        write_tensorrt(tiny, tmp_path, options, photos=drawn_photos()[:1], runtime=runtime)
    assert PlanCache(tmp_path).plans(runtime.built[-1].stem) == []  # the one that was refused


def test_an_int8_engine_must_be_the_graph_it_was_built_from(
    tiny: cdvision.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_builder, "graph_names", lambda _: ["answer.classifier"])
    photos, runtime = drawn_photos()[:1], OnnxPlans(off=0.1)
    options = TensorrtOptions("int8", SHAPES)
    with pytest.raises(ModelError, match="is refused"):
        write_tensorrt(tiny, tmp_path, options, photos=photos, calibration=photos, runtime=runtime)
    assert PlanCache(tmp_path).plans("answer.classifier") == []
    exact = write_tensorrt(
        tiny, tmp_path, options, photos=photos, calibration=photos, runtime=OnnxPlans()
    )  # far from float, and kept: its graph computes the same
    assert all(item.relative == 0 for graph in exact.graphs for item in graph.parity)


def test_an_engine_that_no_photo_can_check_is_not_kept(
    tiny: cdvision.Model, tmp_path: Path
) -> None:
    options = TensorrtOptions("fp32", ShapeRange((32, 64, 64)))
    with pytest.raises(CdvisionError, match="unchecked"):
        write_tensorrt(tiny, tmp_path, options, photos=drawn_photos()[:1], runtime=OnnxPlans())


def test_sizes_and_batches_are_checked_against_the_model(tiny: cdvision.Model) -> None:
    multiple = tiny.card.input.multiple
    with pytest.raises(CdvisionError, match="multiples"):
        ShapeRange.for_card(tiny.card, (multiple, multiple + 1, 2 * multiple))
    with pytest.raises(CdvisionError, match="smallest"):
        ShapeRange.for_card(tiny.card, None, (4, 1, 16))
    assert ShapeRange.for_card(tiny.card).sides[2] == tiny.card.input.size


def test_int8_keeps_its_heads_in_half_precision(tiny: cdvision.Model) -> None:
    runs = record_inputs(tiny, drawn_photos()[:1], [4])["answer.detector"]
    proto = typed_graph(tiny, "answer.detector", "int8", runs)  # TensorRT's operators, or an error
    producers = {out: node.op_type for node in proto.graph.node for out in node.output}
    weights = [n.input[1] for n in proto.graph.node if n.op_type == "Conv"]
    quantised = [name for name in weights if producers.get(name) == "DequantizeLinear"]
    heads = [name for name in weights if ".head." in name]
    assert quantised
    assert heads
    assert all(name.endswith(".half") for name in heads)
    outputs = OnnxGraph(proto.SerializeToString(), threads=1).run(runs[0])
    assert all(np.isfinite(value).all() for value in outputs.values())


# --- the script for machines without TensorRT's Python


def test_the_script_asks_trtexec_for_the_same_engines(built: Path) -> None:
    script = built / "build_engines.sh"
    fake = built / "trtexec-echo"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho --end\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [script], env={"TRTEXEC": str(fake), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    calls = [call.split() for call in done.stdout.split("--end")[:-1]]
    detector = next(c for c in calls if "--onnx=fp16/answer.detector.onnx" in c)
    assert "--stronglyTyped" in detector
    assert "--maxShapes=symbols:4x16x13x13,hyper:4x8x4x4,quality:4" in detector
    for call in calls:
        onnx_file = next(a for a in call if a.startswith("--onnx=")).partition("=")[2]
        assert (built / onnx_file).is_file()
    assert len(calls) == len(list((built / "fp16").glob("*.onnx")))


def test_the_script_says_what_is_missing(built: Path) -> None:
    done = subprocess.run(
        [built / "build_engines.sh"], env={"TRTEXEC": "no-such-program", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "set TRTEXEC" in done.stderr


# --- the engine


def test_the_engine_answers_as_the_onnx_engine_does(built: Path, tiny: cdvision.Model) -> None:
    engine = TensorrtEngine(tiny.package, folder=built, runtime=OnnxPlans())
    reference = OnnxEngine(tiny.package, threads=1)
    recorded = record_inputs(tiny, drawn_photos()[:1], [4])
    for graph, runs in recorded.items():
        found, expected = engine.run(graph, runs[0]), reference.run(graph, runs[0])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if value.dtype.kind == "f":
                assert np.abs(found[name] - value).max() <= 5e-3 * np.abs(value).max()


class _Timeline(OnnxPlans):
    """Holds every run back until the next stream is decoded; counts runs at once."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self.streams, self.decoded, self.runs, self.running, self.most = streams, 0, 0, 0, 0
        self.ahead: list[bool] = []
        self.changed = threading.Condition()

    def counted(self, decode: Callable[..., Any], *arguments: Any) -> Any:
        latents = decode(*arguments)
        with self.changed:
            self.decoded += 1
            self.changed.notify_all()
        return latents

    def open_plan(self, plan: bytes) -> Any:
        return types.SimpleNamespace(run=partial(self.run, super().open_plan(plan)))

    def run(self, graph: _Spoiled, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        with self.changed:
            self.running, self.runs = self.running + 1, self.runs + 1
            self.most, next_one = max(self.most, self.running), self.runs + 1
            if next_one <= self.streams:
                self.ahead.append(self.changed.wait_for(lambda: self.decoded >= next_one, 10))
        outputs = graph.run(inputs)
        with self.changed:
            self.running -= 1
        return outputs


def test_the_next_streams_are_decoded_while_the_network_works(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, timeline = cdvision.load(TINY, threads=1), _Timeline(streams=4)
    bits = model.encode(drawn_photos()[0], 4)
    expected = model.classify(bits).class_name.tolist()
    coder = model.package.coder
    monkeypatch.setattr(coder, "decode_layer", partial(timeline.counted, coder.decode_layer))
    model.engine = TensorrtEngine(model.package, folder=built, runtime=timeline)
    results = list(model.analyze(iter([bits] * 4), ["classify"], batch_size=1))
    assert [r.classification.class_name.tolist() for r in results] == [expected] * 4
    assert timeline.ahead == [True] * 3
    assert timeline.most == 1  # a plan has one set of buffers: runs take turns


def test_engines_from_elsewhere_are_named(built: Path, tiny: cdvision.Model) -> None:
    runtime = OnnxPlans()
    runtime.compute_capability = "9.0"
    engine = TensorrtEngine(tiny.package, folder=built, runtime=runtime)
    message = r"built elsewhere .*8\.7.* here is .*9\.0.*--to tensorrt"
    with pytest.raises(EngineError, match=message):
        engine.run("box.detector", {"regions": np.zeros((1, 8, 7, 7), np.float32)})


def test_shapes_outside_the_profile_are_named(built: Path, tiny: cdvision.Model) -> None:
    engine = TensorrtEngine(tiny.package, folder=built, runtime=OnnxPlans())
    with pytest.raises(EngineError, match=r"1001.*--batches"):
        engine.run("box.detector", {"regions": np.zeros((1001, 8, 7, 7), np.float32)})


def test_no_engine_and_another_model_are_told_apart(
    built: Path, tiny: cdvision.Model, tmp_path: Path
) -> None:
    inputs = {"regions": np.zeros((1, 8, 7, 7), np.float32)}

    def engine() -> TensorrtEngine:
        return TensorrtEngine(tiny.package, folder=tmp_path, runtime=OnnxPlans())

    with pytest.raises(EngineError, match="no engine for this graph"):
        engine().run("box.detector", inputs)
    (key,) = PlanCache(built).plans("box.detector")
    PlanCache(tmp_path).store(replace(key, model_sha256="0" * 64), b"plan", {})
    with pytest.raises(EngineError, match="another version of the model"):
        engine().run("box.detector", inputs)


def test_a_damaged_plan_is_refused(built: Path, tmp_path: Path) -> None:
    (key,) = PlanCache(built).plans("box.detector")
    cache = PlanCache(tmp_path)
    path = cache.store(key, b"plan", {})
    assert cache.read(key) == b"plan"
    path.write_bytes(b"plam")
    with pytest.raises(EngineError, match="damaged"):
        cache.read(key)


def test_the_plan_that_was_stored_last_comes_first(built: Path, tmp_path: Path) -> None:
    (key,) = PlanCache(built).plans("box.detector")
    cache = PlanCache(tmp_path)
    for precision in ("int8", "fp16", "fp32"):
        cache.store(replace(key, precision=precision), b"plan", {})
    assert [k.precision for k in cache.plans("box.detector")] == ["fp32", "fp16", "int8"]


def test_the_folder_of_engines_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "/some/where")
    assert default_folder() == Path("/some/where")


@pytest.mark.skipif(tensorrt_installed(), reason="TensorRT is installed")
def test_without_tensorrt_the_engine_names_the_extra() -> None:
    with pytest.raises(EngineError, match=r"cdvision\[tensorrt\]"):
        cdvision.load(TINY, engine="tensorrt")


def test_a_device_that_is_no_gpu_is_refused(tiny: cdvision.Model) -> None:
    with pytest.raises(EngineError, match="tpu"):
        TensorrtEngine(tiny.package, device="tpu", runtime=OnnxPlans())
