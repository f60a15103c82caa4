"""A fit from beginning to end (the exporter takes tens of seconds)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


from fit_networks import onnx_file, tiny_network  # noqa: E402

from cdvision.fitting.sources import NetworkRequest, find_network  # noqa: E402

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.skipif("CDVISION_SLOW" not in os.environ, reason="needs CDVISION_SLOW")
@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_a_fitted_tap_answers_like_its_network(folder: Path, tmp_path: Path, kind: str) -> None:
    source: Any = tiny_network() if kind == "torch" else str(onnx_file(tmp_path / "net.onnx"))
    cut, output = ("layer2", "output") if kind == "torch" else ("cut", "answer")
    out = tmp_path / "mine"
    options = {"steps": 4, "width": 16, "depth": 1, "size": 64, "device": "cpu"}
    report = cdvision.fit(source, cut, images=folder, out=out, **options)
    assert len(report.qualities) == 8
    assert report.answers == ""
    assert "quality  bytes" in str(report)
    assert {"tap.json", "report.json", "weights.safetensors"} <= {p.name for p in out.iterdir()}
    assert not (out / "run").exists()
    model = cdvision.load(out)
    bits = model.encode(next(folder.rglob("*.png")), 8)
    features = model.open(bits).features("mine")
    answer = model.open(bits).dense("mine")
    assert np.allclose(answer["features"], features, atol=1e-4)
    network = find_network(NetworkRequest(source, cut), CPU)
    expected = network.outputs(torch.from_numpy(features)[None])[output][0]
    assert np.allclose(answer[output], expected, atol=2e-2, rtol=2e-2)
