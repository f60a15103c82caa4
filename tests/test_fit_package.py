"""A tap's folder in use: loading, checks, features and outputs without PyTorch, export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.errors import EngineError, ModelError, UnsupportedTask
from cdvision.package.card import FeatureSpec
from cdvision.package.loader import file_sha256
from cdvision.package.tap import TapCard

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

PACKAGES = Path(__file__).parent / "packages"
PHOTO = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def graph_of_symbols(path: Path, outputs: dict[str, str]) -> None:
    """Write a graph that gives its symbols as features, and their mean as the network's output."""
    inputs = [
        helper.make_tensor_value_info("symbols", TensorProto.INT32, ["batch", 128, "h16", "w16"]),
        helper.make_tensor_value_info("hyper", TensorProto.INT32, ["batch", 24, "h64", "w64"]),
        helper.make_tensor_value_info("quality", TensorProto.INT64, ["batch"]),
    ]
    nodes = [helper.make_node("Cast", ["symbols"], ["features"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node(kind, ["features"], [name]) for name, kind in outputs.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 128, "h", "w"])
        for name in ("features", *outputs)
    ]
    graph = helper.make_graph(nodes, path.stem, inputs, ends)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))


@pytest.fixture
def tap(tmp_path: Path, model: cdvision.Model) -> Path:
    """A tap of `small` whose features are the symbols."""
    folder = tmp_path / "mine"
    folder.mkdir()
    graph_of_symbols(folder / "tap.mine.onnx", {})
    graph_of_symbols(folder / "answer.mine.onnx", {"output": "GlobalAveragePool"})
    card = TapCard(
        name="mine",
        model=model.name,
        fingerprint=model.card.fingerprint,
        features=FeatureSpec(128, 16),
        network={"source": "test", "split": "here", "weights": "none"},
        outputs=("output",),
        preprocessing={},
        training={},
        metrics={},
        files={path.name: file_sha256(path) for path in folder.iterdir()},
    )
    (folder / "tap.json").write_text(card.to_json())
    return folder


def change_card(folder: Path, **values: Any) -> None:
    card = json.loads((folder / "tap.json").read_text())
    (folder / "tap.json").write_text(json.dumps({**card, **values}))


@pytest.mark.parametrize("by", ["model and tap", "tap alone", "path"])
def test_a_model_is_loaded_with_a_tap(tap: Path, by: str) -> None:
    if by == "model and tap":
        loaded = cdvision.load("small", taps=[tap])
    else:
        loaded = cdvision.load(tap if by == "path" else str(tap))
    stream = loaded.open(loaded.encode(PHOTO, 4))
    features = stream.features("mine")
    assert np.array_equal(features, stream.latents()["symbols"])
    assert np.allclose(stream.dense("mine")["output"][:, 0, 0], features.mean((1, 2)), atol=1e-6)
    assert loaded.card.tasks == cdvision.load("small").card.tasks
    assert stream.classify(top=1).class_id.shape == (1,)
    assert str(loaded.card.tails["mine"].description) == "test after here"


def test_streams_of_before_are_read_and_the_model_is_as_it_was(
    tap: Path, model: cdvision.Model
) -> None:
    bits = model.encode(PHOTO, 2)
    assert cdvision.load(tap).encode(PHOTO, 2) == bits
    assert cdvision.open(bits, model=str(tap)).features("mine").shape == (128, 12, 14)
    with pytest.raises(UnsupportedTask, match="has no tail 'mine'"):
        cdvision.open(bits).features("mine")


def test_a_tap_of_another_model_is_refused_in_one_line(tap: Path) -> None:
    with pytest.raises(ModelError, match=r"belongs to model 'small'.*not to 'test-dicm-re'") as one:
        cdvision.load(PACKAGES / "test-dicm-re", taps=[tap])
    assert "\n" not in str(one.value)
    change_card(tap, fingerprint="00" * 32, model="large")
    with pytest.raises(ModelError, match="belongs to model 'large'"):
        cdvision.load("small", taps=[tap])
    with pytest.raises(ModelError, match=r"its model 'large' .00000000. is not installed"):
        cdvision.load(tap)


def test_damaged_taps_are_refused(tap: Path) -> None:
    with pytest.raises(ModelError, match="has a tail 'mine' already"):
        cdvision.load(tap, taps=[tap])
    (tap / "tap.mine.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"tap\.mine\.onnx is damaged"):
        cdvision.load(tap)
    (tap / "tap.mine.onnx").unlink()
    with pytest.raises(ModelError, match=r"tap\.mine\.onnx is missing"):
        cdvision.load(tap)


@pytest.mark.parametrize("graph", ["answer.nanodet_plus_m.onnx", "encoder.onnx"])
def test_a_tap_brings_no_graph_of_the_models_own(tap: Path, graph: str) -> None:
    (tap / graph).write_bytes((tap / "tap.mine.onnx").read_bytes())
    files = json.loads((tap / "tap.json").read_text())["files"]
    change_card(tap, files={**files, graph: file_sha256(tap / graph)})
    with pytest.raises(ModelError, match="a tap cannot bring the model's own graph"):
        cdvision.load("small", taps=[tap])


@pytest.mark.parametrize(
    "values",
    [
        {"format": 2},
        {"features": {"channels": 0, "stride": 16}},
        {"name": "../mine"},
        {"files": {}},
        {"files": {"tap.mine.onnx": 3}},
        {"files": {"tap.mine.onnx": "", "../answer.mine.onnx": ""}},
        {"unknown": 1},
    ],
)
def test_cards_that_make_no_sense_are_refused(tap: Path, values: dict[str, Any]) -> None:
    change_card(tap, **values)
    with pytest.raises(ModelError, match="tap"):
        cdvision.load("small", taps=[tap])


def test_a_folder_without_a_tap(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no tap"):
        cdvision.load("small", taps=[tmp_path])


def test_the_torch_engine_says_that_it_cannot(tap: Path) -> None:
    pytest.importorskip("torch")
    with pytest.raises(EngineError, match="engine='onnx'"):
        cdvision.load(tap, engine="torch")


def test_using_a_tap_needs_no_torch(tap: Path, photos: list[Path]) -> None:
    code = (
        "import sys, cdvision\n"
        f"model = cdvision.load({str(tap)!r})\n"
        f"stream = model.open(model.encode({str(photos[0])!r}, size=64))\n"
        "stream.features('mine'), stream.dense('mine')\n"
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tap_leaves_with_its_model(tap: Path, tmp_path: Path) -> None:
    from cdvision.export.export_run import ExportRun
    from cdvision.export.onnx_artefacts import export_graph_file
    from cdvision.export.standalone_graph import graph_names

    model = cdvision.load(tap)
    assert {"tap.mine", "answer.mine"} <= set(graph_names(model.package))
    run = ExportRun.prepare(model, photos=[PHOTO])
    assert run.reference_name == "package graphs in ONNX Runtime"
    for graph in ("tap.mine", "answer.mine"):
        path = tmp_path / f"{graph}.onnx"
        report = export_graph_file(run, graph, path, tmp_path)
        assert report.inputs["symbols"].startswith("int32 (batch, 128, h16, w16)")
        assert path.is_file()
