"""Counts the multiply-adds of an ONNX graph: convolutions and matrix products, as the field does.

A multiply-add is a multiplication with an addition; norms, activations and additions do not count.
The graph runs once, on zeros, and shows the shape of everything that is multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def count_multiply_adds(path: Path, inputs: Shapes) -> int:
    """Count a graph's multiply-adds for inputs of some shapes.

    Args:
        path: of the ONNX file; its weights lie beside it.
        inputs: shape of each input, batch axis included.
    """
    model = onnx.load(str(path), load_external_data=False)
    counted = [node for node in model.graph.node if node.op_type in COUNTERS]
    if not counted:  # a run without named outputs would give them all
        return 0
    wanted = {name for node in counted for name in (*node.input[:2], node.output[0])}
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {**stored, **_shapes_in_a_run(model, path, inputs, wanted - stored.keys())}
    return sum(COUNTERS[node.op_type](node, shapes) for node in counted)


def _shapes_in_a_run(
    model: onnx.ModelProto, path: Path, inputs: Shapes, wanted: set[str]
) -> dict[str, Shape]:
    """Return the shapes of named values, for inputs of zeros."""
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(wanted - given))
    watched = path.with_suffix(".watched")  # beside the weights, which it names by relative paths
    try:
        watched.write_bytes(model.SerializeToString())
        session = ort.InferenceSession(str(watched), providers=["CPUExecutionProvider"])
        feed = {i.name: np.zeros(inputs[i.name], _DTYPES[i.type]) for i in session.get_inputs()}
        found = session.run(sorted(wanted), feed)
    finally:
        watched.unlink(missing_ok=True)
    return {name: value.shape for name, value in zip(sorted(wanted), found, strict=True)}


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    # Each output value is a sum over the kernel's cells and its group's input channels.
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _transposed_convolution(node: onnx.NodeProto, shapes: Shapes) -> int:
    # The other way round: each input value is spread over the kernel and the output channels.
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _linear(node: onnx.NodeProto, shapes: Shapes) -> int:
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else -1]


COUNTERS: dict[str, Callable[[onnx.NodeProto, Shapes], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Gemm": _linear,
    "MatMul": _product,
}
_DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
}
