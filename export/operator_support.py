"""Checks, without TensorRT, that its parser takes every operator, type and axis of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cdvision.export.operator_table import (
    CONSTANT_INPUTS,
    DATA_TYPES,
    MOST_TOP_K,
    OPSETS,
    RESIZE_MODES,
)
from cdvision.export.standalone_graph import opset_of

DATA_PLACE = {"Where": 1}  # the input whose type counts; the first of all other operators
Constants = Mapping[str, TensorProto]


def unsupported(model: onnx.ModelProto) -> list[str]:
    """Return one line for everything in a graph that TensorRT's published list does not allow.

    >>> from onnx import helper, TensorProto
    >>> ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    >>> graph = helper.make_graph([helper.make_node("Det", ["x"], ["y"])], "g", ends[:1], ends[1:])
    >>> unsupported(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    ["Det '': not among TensorRT's operators"]
    """
    types, constants = _types(model), {t.name: t for t in model.graph.initializer}
    found = [] if opset_of(model) in OPSETS else [f"opset {opset_of(model)}: expected {OPSETS}"]
    for node in model.graph.node:
        found += [
            f"{node.op_type} {node.name!r}: {fault}" for fault in _faults(node, types, constants)
        ]
    return found


def _types(model: onnx.ModelProto) -> dict[str, str]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: TensorProto.DataType.Name(number) for name, number in types.items()}


def _faults(node: onnx.NodeProto, types: Mapping[str, str], constants: Constants) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx") or node.op_type not in DATA_TYPES:
        yield "not among TensorRT's operators"
        return
    if node.input:
        data = types.get(node.input[DATA_PLACE.get(node.op_type, 0)], "UNDEFINED")
        if data not in DATA_TYPES[node.op_type]:
            yield f"data of type {data}, expected {', '.join(sorted(DATA_TYPES[node.op_type]))}"
    for place in CONSTANT_INPUTS.get(node.op_type, ()):
        if len(node.input) > place and node.input[place] not in ("", *constants):
            yield f"input {place} must be a constant"
    restriction = RESTRICTIONS.get(node.op_type)
    if restriction is not None:
        yield from restriction(node, _attributes(node), constants)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _max_pool(node: onnx.NodeProto, attributes: dict[str, Any], _: Constants) -> Iterator[str]:
    if len([name for name in node.output if name]) > 1:
        yield "indices as an output"
    if set(attributes.get("dilations", [1])) != {1}:
        yield "dilations"
    if len(attributes.get("kernel_shape", [])) not in (2, 3):
        yield "pooling in other than 2 or 3 dimensions"


def _layer_norm(node: onnx.NodeProto, _: dict[str, Any], __: Constants) -> Iterator[str]:
    if len([name for name in node.output if name]) > 1:
        yield "mean and deviation as outputs"


def _top_k(node: onnx.NodeProto, attributes: dict[str, Any], constants: Constants) -> Iterator[str]:
    if attributes.get("sorted", 1) != 1:
        yield "results that are not sorted"
    count = constants.get(node.input[1])
    if count is not None and numpy_helper.to_array(count).max() > MOST_TOP_K:
        yield f"more than {MOST_TOP_K} results"


def _resize(_: onnx.NodeProto, attributes: dict[str, Any], __: Constants) -> Iterator[str]:
    for name, allowed in RESIZE_MODES.items():
        value = attributes.get(name, b"").decode()
        if value and value not in allowed:
            yield f"{name}={value}"
    if attributes.get("antialias", 0):
        yield "antialiasing"


def _zero_point(node: onnx.NodeProto, _: dict[str, Any], constants: Constants) -> Iterator[str]:
    if len(node.input) < 3:
        return
    zero = constants.get(node.input[2])
    if zero is None or np.any(numpy_helper.to_array(zero)):
        yield "a zero point other than 0"


Restriction = Callable[[onnx.NodeProto, dict[str, Any], Constants], Iterator[str]]
RESTRICTIONS: Mapping[str, Restriction] = {
    "MaxPool": _max_pool,
    "LayerNormalization": _layer_norm,
    "TopK": _top_k,
    "Resize": _resize,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
}
