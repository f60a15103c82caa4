"""Counts the multiply-adds of an ONNX graph: convolutions and matrix products, as the field does.

A multiply-add is a multiplication with an addition; norms, activations and additions do not count.
The graph runs once, on zeros, and shows the shape of everything that is multiplied.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from cdvision.engines.onnx_runtime import onnxruntime

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def count_multiply_adds(path: Path, inputs: Shapes) -> int:
    """Count a graph's multiply-adds for inputs of some shapes.

    Args:
        path: of the ONNX file; its weights lie beside it.
        inputs: shape of each input, batch axis included.
    """
    model = onnx.load(str(path), load_external_data=False)
    counted = [node for node in model.graph.node if node.op_type in COUNTED]
    if not counted:  # a run without named outputs would give them all
        return 0
    wanted = {name for node in counted for name in (*node.input[:2], node.output[0])}
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {**stored, **_shapes_in_a_run(model, path, inputs, wanted - stored.keys())}
    return sum(_multiply_adds(node, shapes) for node in counted)


def _shapes_in_a_run(
    model: onnx.ModelProto, path: Path, inputs: Shapes, wanted: set[str]
) -> dict[str, Shape]:
    """Return the shapes of named values, for inputs of zeros."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    zeros = {n: np.zeros(inputs[n], helper.tensor_dtype_to_np_dtype(t)) for n, t in types.items()}
    given = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in sorted(wanted - given))
    watched = path.with_suffix(".watched")  # beside the weights, which it names by relative paths
    try:
        watched.write_bytes(model.SerializeToString())
        session = onnxruntime().InferenceSession(str(watched), providers=["CPUExecutionProvider"])
        found = session.run(sorted(wanted), zeros)
    finally:
        watched.unlink(missing_ok=True)
    return {name: value.shape for name, value in zip(sorted(wanted), found, strict=True)}


def _multiply_adds(node: onnx.NodeProto, shapes: Shapes) -> int:
    first, weight, output = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":
        # Each output value is a sum over the kernel's cells and its group's input channels.
        return prod(output) * prod(weight[1:])
    if node.op_type == "ConvTranspose":
        # The other way round: each input value is spread over the kernel and the output channels.
        return prod(first) * prod(weight[1:])
    # Of a matrix product each output value is a sum over the axis that both factors share.
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return prod(output) * first[0 if turned else -1]
