"""Stand-alone ONNX graphs of every package: what they hold, how close they are, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cdvision
from cdvision.cli import command_line
from cdvision.engines.onnx_engine import OnnxEngine, OnnxGraph
from cdvision.errors import CdvisionError, EngineError, ModelError
from cdvision.package.loader import ModelPackage, load_package

onnx = pytest.importorskip("onnx")

from cdvision.export import onnx_artefacts  # noqa: E402
from cdvision.export.export_run import ExportRun  # noqa: E402
from cdvision.export.half_precision import half_graph  # noqa: E402
from cdvision.export.onnx_artefacts import export_graph_file, write_onnx  # noqa: E402
from cdvision.export.parity import (  # noqa: E402
    TOLERANCES,
    batched,
    check,
    differences,
    largest_differences,
)
from cdvision.export.quantise import quantisable_nodes, quantised_graph  # noqa: E402
from cdvision.export.recorded_inputs import drawn_photos, photos_in  # noqa: E402
from cdvision.export.standalone_graph import axes_of, graph_names, standalone_graph  # noqa: E402
from cdvision.export.tensorrt_operators import unsupported  # noqa: E402

TESTS = Path(__file__).parent
TINY = TESTS / "packages" / "test-dicm-re"
SMALL = TESTS.parent / "cdvision" / "models" / "small" / "packages" / "small"
PACKAGES = [SMALL, *sorted((TESTS / "packages").glob("test-*"))]
Report = dict[str, Any]


@pytest.fixture(scope="module")
def tiny() -> cdvision.Model:
    return cdvision.load(TINY, threads=1)


@pytest.fixture(scope="module")
def inputs(tiny: cdvision.Model) -> ExportRun:
    """What the tiny model's graphs receive from one drawn picture."""
    return ExportRun.prepare(tiny, photos=drawn_photos()[:1])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Run the command once, on the smallest package and one picture."""
    folder = tmp_path_factory.mktemp("export")
    photos = folder / "photos"
    photos.mkdir()
    Image.fromarray(drawn_photos()[0]).save(photos / "picture.png")
    arguments = ["export", TINY, "--to", "onnx", folder / "onnx", "--photos", photos, "--json"]
    result = CliRunner().invoke(command_line, [str(part) for part in arguments])
    assert result.exit_code == 0, result.stderr
    return folder / "onnx", json.loads(result.stdout)


# --- the command


def test_every_graph_of_sender_and_receiver_is_written(exported: tuple[Path, Report]) -> None:
    folder, report = exported
    names = {path.stem for path in folder.glob("*.onnx")}
    assert names == set(graph_names(load_package(TINY)))
    assert {"encoder", "answer.detector", "box.detector", "mask.detector"} <= names
    assert json.loads((folder / "report.json").read_text()) == report


def test_the_report_says_versions_opset_parity_and_latency(exported: tuple[Path, Report]) -> None:
    _, report = exported
    assert {"python", "onnx", "onnxruntime"} <= set(report["versions"])
    assert report["photos"] == 1
    for graph in report["graphs"]:
        assert graph["opset"] == 18
        assert graph["milliseconds"]["fp32"] > 0
        assert {p["output"] for p in graph["parity"]} == set(graph["outputs"])
        for item in graph["parity"]:
            assert item["runs"] >= 3
            limit = TOLERANCES["fp32"]
            assert item["relative"] <= (limit.differing if item["integer"] else limit.relative)


def test_a_file_needs_nothing_beside_it_and_explains_itself(exported: tuple[Path, Report]) -> None:
    folder, _ = exported
    model = onnx.load(str(folder / "answer.classifier.onnx"), load_external_data=False)
    assert not any(t.external_data for t in model.graph.initializer)
    OnnxGraph(model.SerializeToString(), threads=1)
    described = {prop.key: prop.value for prop in model.metadata_props}
    assert described["cdvision.graph"] == "answer.classifier"
    assert described["cdvision.opset"] == "18"
    symbols = "int32 (batch, 16, h32, w32): quantised latents; what the entropy model skips is 0"
    assert described["input.symbols"] == symbols
    assert described["output.logits"] == "float (batch, 3): class logits"


def test_the_folder_is_a_package_that_answers_alike(
    exported: tuple[Path, Report], tiny: cdvision.Model
) -> None:
    model, photo = cdvision.load(exported[0], threads=1), drawn_photos()[1]
    bits = model.encode(photo)
    assert bits == tiny.encode(photo)
    found, expected = model.classify(bits), tiny.classify(bits)
    assert found.class_name.tolist() == expected.class_name.tolist()
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
    with pytest.raises(EngineError, match=r"without weights\.safetensors"):
        cdvision.load(exported[0], engine="torch")


def test_int8_without_calibration_photos_is_one_line(tmp_path: Path) -> None:
    arguments = ["export", str(TINY), "--to", "onnx", str(tmp_path), "--weights", "int8"]
    result = CliRunner().invoke(command_line, arguments)
    assert result.exit_code == 2
    assert "--calibration" in result.stderr


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CdvisionError, match="no photo"):
        photos_in(tmp_path)


@pytest.mark.parametrize(("precision", "kept"), [("fp32", 1), ("fp16", 1), ("int8", 0)])
def test_figures_measured_in_float_do_not_stand_on_an_int8_card(
    precision: str, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_artefacts, "graph_names", lambda _: ["answer.classifier"])
    measured, photos = tmp_path / "measured", drawn_photos()[:1]
    shutil.copytree(TINY, measured)
    card = json.loads((measured / "model.json").read_text())
    (measured / "model.json").write_text(json.dumps({**card, "metrics": [{"ap": 0.3}]}))
    model = cdvision.load(measured, threads=1)
    calibration = photos if precision == "int8" else ()
    write_onnx(model, tmp_path, precision=precision, photos=photos, calibration=calibration)
    assert len(json.loads((tmp_path / "model.json").read_text())["metrics"]) == kept


# --- parity


class _Off:
    """The package's own graphs, off by a share of the largest value."""

    def __init__(self, package: ModelPackage, share: float) -> None:
        self._engine, self._share = OnnxEngine(package, threads=1), share

    def run(self, graph: str, inputs: Any) -> dict[str, np.ndarray]:
        outputs = self._engine.run(graph, inputs)
        return {n: v + self._share * np.abs(v).max() for n, v in outputs.items()}


def test_a_graph_that_differs_is_not_kept(
    tiny: cdvision.Model, inputs: ExportRun, tmp_path: Path
) -> None:
    path = tmp_path / "box.onnx"
    near, far = (replace(inputs, reference=_Off(tiny.package, share)) for share in (0.0, 1e-3))
    assert export_graph_file(near, "box.detector", path, tmp_path).bytes == path.stat().st_size
    with pytest.raises(ModelError, match="expected at most"):
        export_graph_file(far, "box.detector", path, tmp_path)
    assert not path.exists()


def test_half_weights_halve_the_file_and_keep_the_results(
    tiny: cdvision.Model, inputs: ExportRun
) -> None:
    graph = "answer.classifier"
    full, half = (standalone_graph(tiny.package, graph, half_weights=h) for h in (False, True))
    assert half.ByteSize() < 0.75 * full.ByteSize()  # a tiny graph is half nodes, half weights
    reference = OnnxEngine(tiny.package, threads=1)
    candidate = OnnxGraph(half.SerializeToString(), threads=1)
    check(
        graph,
        largest_differences(candidate, partial(reference.run, graph), inputs.recorded[graph]),
        TOLERANCES["fp16"],
    )


def test_differences_of_floats_integers_and_nan() -> None:
    expected = {"real": np.array([0.0, 2.0]), "whole": np.array([1, 2, 3, 4])}
    found = {"real": np.array([0.0, 1.0]), "whole": np.array([1, 2, 3, 9])}
    real, whole = differences(found, expected)
    assert (real.absolute, real.relative) == (1.0, 0.5)
    assert (whole.absolute, whole.relative) == (5.0, 0.25)
    (nan,) = differences({"real": np.array([0.0, np.nan])}, {"real": expected["real"]})
    assert not nan.allowed(TOLERANCES["int8"])
    with pytest.raises(ModelError, match="shape"):
        differences({"real": np.zeros(3)}, {"real": expected["real"]})


def test_two_runs_of_one_shape_make_a_batch() -> None:
    runs = [{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}, {"x": np.ones((1, 2))}]
    (batch,) = batched(runs)
    assert batch["x"].tolist() == [[0, 0], [1, 1]]
    assert batched(runs[:2]) == []


# --- what TensorRT takes


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_tensorrt_takes_every_operator_and_type(folder: Path) -> None:
    package = load_package(folder)
    for graph in graph_names(package):
        model = standalone_graph(package, graph)
        assert unsupported(model) == [], graph
        weights = {t.name for t in model.graph.initializer}
        convolutions = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
        assert all(n.input[1] in weights for n in convolutions), graph  # folded, so fusible
        for value in (*model.graph.input, *model.graph.output):
            first = "regions" if graph.startswith(("box.", "mask.")) else "batch"
            assert axes_of(value)[0] == first


def test_the_check_finds_what_tensorrt_refuses() -> None:
    faults = unsupported(onnx.load(str(TINY / "encoder.onnx")))
    assert any(fault.startswith("Transpose") and "UINT8" in fault for fault in faults)


# --- half precision and INT8


def test_half_precision_leaves_the_integer_network_alone(
    tiny: cdvision.Model, inputs: ExportRun
) -> None:
    model = half_graph(standalone_graph(tiny.package, "encoder"))
    onnx.checker.check_model(model, full_check=True)
    assert unsupported(model) == []
    exact = [n for n in model.graph.node if n.op_type == "Conv" and ".half" not in n.output[0]]
    assert len(exact) == 3  # the layers of the integer hyper-decoder
    halves = [n for n in model.graph.node if n.op_type == "Conv" and ".half" in n.output[0]]
    assert len(halves) > 30
    graph = "answer.detector"
    candidate = half_graph(standalone_graph(tiny.package, graph))
    found = largest_differences(
        OnnxGraph(candidate.SerializeToString(), threads=1),
        partial(OnnxEngine(tiny.package, threads=1).run, graph),
        inputs.recorded[graph][:1],
    )
    check(graph, found, TOLERANCES["fp16"])
    assert max(item.relative for item in found.values()) > 0  # it did compute in half precision


def test_int8_quantises_the_body_and_spares_the_heads(
    tiny: cdvision.Model, inputs: ExportRun
) -> None:
    plain = standalone_graph(tiny.package, "answer.detector")
    runs = inputs.recorded["answer.detector"][:1]
    for for_tensorrt in (False, True):
        model = quantised_graph(plain, runs, for_tensorrt=for_tensorrt)
        producers = {out: n for n in model.graph.node for out in n.output}
        kinds = {
            n.name: producers[n.input[1]].op_type if n.input[1] in producers else "float"
            for n in model.graph.node
            if n.op_type in ("Conv", "ConvTranspose")
        }
        chosen = set(quantisable_nodes(plain))
        assert {name for name, kind in kinds.items() if kind == "DequantizeLinear"} == chosen
        heads = [n for n in plain.graph.node if n.op_type == "Conv" and ".head." in n.input[1]]
        assert heads
        assert chosen.isdisjoint(n.name for n in heads)
        assert (unsupported(model) == []) is for_tensorrt  # integer biases are ONNX Runtime's
        OnnxGraph(model.SerializeToString(), threads=1).run(runs[0])


def test_int8_takes_its_ranges_from_the_calibration_photos_alone(
    tiny: cdvision.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_artefacts, "graph_names", lambda _: ["encoder"])
    grey = np.full((224, 288, 3), 100, np.uint8)
    report = write_onnx(
        tiny, tmp_path, precision="int8", photos=drawn_photos()[:1], calibration=[grey]
    )
    (encoder,) = report.graphs
    assert encoder.milliseconds.keys() == {"fp32", "int8"}
    assert encoder.notes["quantised_layers"] > 5
    assert encoder.bytes < 0.8 * encoder.notes["fp32_bytes"]
    largest = max(item.relative for item in encoder.parity)
    assert largest > TOLERANCES["fp32"].relative  # the report tells; accuracy decides
    run = ExportRun.prepare(tiny, "int8", drawn_photos()[:1], [grey])
    pictures = [inputs["image"] for inputs in run.calibration["encoder"]]
    assert len(pictures) == 3  # the smallest, the usual and the largest rate
    assert {int(inputs["quality"][0]) for inputs in run.calibration["encoder"]} == {
        0, tiny.card.default_quality - 1, tiny.card.qualities - 1,
    }  # fmt: skip
    assert all(np.unique(picture).tolist() == [100] for picture in pictures)
    assert len(np.unique(run.recorded["encoder"][0]["image"])) > 100
    with pytest.raises(ModelError, match="expected one of fp32, fp16, int8, found 'int4'"):
        ExportRun.prepare(tiny, "int4")


def test_int8_spares_the_front_of_a_sender(model: cdvision.Model) -> None:
    plain = standalone_graph(model.package, "encoder")
    weights = {n.name: n.input[1] for n in plain.graph.node if n.op_type == "Conv"}
    chosen = [weights[name] for name in quantisable_nodes(plain)]
    assert any(".analysis." in weight for weight in chosen)
    assert sum(".encoder.front." in weight for weight in weights.values()) > 20
    assert not any(".encoder.front." in weight for weight in chosen)


def test_int8_spares_the_integer_network(tiny: cdvision.Model) -> None:
    plain = standalone_graph(tiny.package, "encoder")
    chosen = set(quantisable_nodes(plain))
    spared = [n for n in plain.graph.node if n.op_type == "Conv" and n.name not in chosen]
    assert len(spared) == 3
    assert not any(n.input[1].startswith("network.") for n in spared)
    with pytest.raises(CdvisionError, match="calibration photos"):
        quantised_graph(plain, [])
