"""Multiply-adds of tiny graphs, against numbers computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from cdvision.building.multiply_adds import count_multiply_adds  # noqa: E402

Shape = tuple[int, ...]
FLOAT = TensorProto.FLOAT


def write_graph(
    path: Path, nodes: list[onnx.NodeProto], x: Shape, weights: dict[str, Shape]
) -> Path:
    """Write a graph from ``x``, of any batch, to ``y``."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", FLOAT, ["batch", *x[1:]])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.ones(s, np.float32), name) for name, s in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


def counted(tmp_path: Path, kind: str, x: Shape, weight: Shape, **attributes: object) -> int:
    """Count a graph of one node."""
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    path = write_graph(tmp_path / "one.onnx", [node], x, {"w": weight})
    return count_multiply_adds(path, {"x": x})


@pytest.mark.parametrize(
    ("x", "weight", "attributes", "expected"),
    [
        # 6 x 5 x 4 outputs, each of 4 / 2 channels and 3 x 3 cells.
        ((1, 4, 10, 8), (6, 2, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1] * 4}, 2160),
        ((1, 4, 10, 8), (6, 4, 1, 1), {}, 6 * 10 * 8 * 4),
        ((3, 4, 10, 8), (6, 4, 1, 1), {}, 3 * 6 * 10 * 8 * 4),  # of a batch
        ((1, 4, 10, 8), (4, 1, 3, 3), {"group": 4}, 4 * 8 * 6 * 9),  # depth-wise, no padding
        ((1, 2, 9, 9), (5, 2, 3, 3), {"dilations": [4, 4]}, 5 * 1 * 1 * 2 * 9),
        ((1, 2, 9), (5, 2, 3), {}, 5 * 7 * 2 * 3),  # along one axis
    ],
)
def test_convolutions(
    tmp_path: Path, x: Shape, weight: Shape, attributes: dict[str, object], expected: int
) -> None:
    assert counted(tmp_path, "Conv", x, weight, **attributes) == expected


@pytest.mark.parametrize(
    ("x", "weight", "attributes", "expected"),
    [
        # 2 x 3 x 4 x 5 inputs, each spread over 4 channels and 2 x 2 cells.
        ((2, 3, 4, 5), (3, 4, 2, 2), {"strides": [2, 2]}, 1920),
        ((2, 3, 4, 5), (3, 4, 2, 2), {}, 1920),  # where cells overlap it is the same work
        ((2, 3, 4, 5), (3, 1, 2, 2), {"group": 3, "strides": [2, 2]}, 480),
    ],
)
def test_transposed_convolutions(
    tmp_path: Path, x: Shape, weight: Shape, attributes: dict[str, object], expected: int
) -> None:
    assert counted(tmp_path, "ConvTranspose", x, weight, **attributes) == expected


@pytest.mark.parametrize(
    ("x", "weight", "attributes"),
    [
        ((5, 7), (7, 3), {}),
        ((5, 7), (3, 7), {"transB": 1}),
        ((7, 5), (7, 3), {"transA": 1}),
        ((7, 5), (3, 7), {"transA": 1, "transB": 1}),
    ],
)
def test_linear_layers(
    tmp_path: Path, x: Shape, weight: Shape, attributes: dict[str, object]
) -> None:
    assert counted(tmp_path, "Gemm", x, weight, **attributes) == 5 * 7 * 3


@pytest.mark.parametrize(
    ("x", "weight", "expected"),
    [
        ((5, 7), (7, 3), 105),
        ((2, 4, 5, 6), (6, 3), 720),  # 2 x 4 x 5 x 3 outputs, each of 6
        ((2, 4, 5, 6), (4, 6, 3), 720),
        ((5, 7), (7,), 35),
    ],
)
def test_matrix_products(tmp_path: Path, x: Shape, weight: Shape, expected: int) -> None:
    assert counted(tmp_path, "MatMul", x, weight) == expected


def test_a_graph_costs_what_its_products_cost(tmp_path: Path) -> None:
    """Biases, activations, norms and shapes cost nothing; a weight may be made by a node."""
    nodes = [
        helper.make_node("Identity", ["kernel"], ["made"]),
        helper.make_node("Conv", ["x", "made", "bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "linear", "offset"], ["y"]),
    ]
    weights = {"kernel": (2, 3, 2, 2), "bias": (2,), "linear": (2 * 4 * 3, 5), "offset": (5,)}
    path = write_graph(tmp_path / "several.onnx", nodes, (1, 3, 8, 6), weights)
    once = 2 * 4 * 3 * (3 * 2 * 2) + 24 * 5
    assert count_multiply_adds(path, {"x": (1, 3, 8, 6)}) == once
    assert count_multiply_adds(path, {"x": (4, 3, 8, 6)}) == 4 * once
    assert [file.name for file in tmp_path.iterdir()] == ["several.onnx"]


def test_a_graph_without_products_costs_nothing(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], (1, 4), {})
    assert count_multiply_adds(path, {"x": (1, 4)}) == 0
