"""Checks, without TensorRT, that its parser takes every operator, type and axis of a graph.

Source of the tables: ``docs/operators.md`` of the ONNX-TensorRT parser, branch 10.1-GA (commit
96e7811, June 2024), rewritten. Later releases have added operators and taken none of these away
that we know of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cdvision.export.standalone_graph import opset_of, value_types

OPSETS = range(9, 21)  # 9 to 20

_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
_NUMBERS = _FLOATS | {"INT32", "INT64"}
_ANY = _NUMBERS | {"BOOL"}

_TYPES = {
    _FLOATS: """
        Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv
        ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool
        GlobalLpPool GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish Hardmax
        InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM
        LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization Pow PRelu QuantizeLinear
        RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize RNN Round
        Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
    """,
    _NUMBERS: """
        Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less
        LessOrEqual Max Mean Min Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum
        ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
        ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
    """,
    _ANY: """
        Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND
        Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile
        Transpose Trilu Unsqueeze Where
    """,
    _ANY | {"UINT8"}: "Cast CastLike",
    frozenset({"FLOAT", "FLOAT16"}): "GridSample Mish NonMaxSuppression NonZero RoiAlign",
    frozenset({"BOOL"}): "And Not Or Xor",
    frozenset({"INT8", "FLOAT8E4M3FN", "INT4"}): "DequantizeLinear",
}
# Operator -> types of its data input. Bytes may only be inputs or outputs of the whole graph.
DATA_TYPES = {operator: types for types, names in _TYPES.items() for operator in names.split()}

# Operator -> places of the inputs (axes) that must be constants.
CONSTANT_INPUTS = {
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Pad": (3,),
    **{name: (1,) for name in DATA_TYPES if name.startswith("Reduce")},
}

RESIZE_MODES = {
    "mode": {"nearest", "linear"},
    "coordinate_transformation_mode": {
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
    },
    "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
    "keep_aspect_ratio_policy": {"stretch"},
}  # fmt: skip
MOST_TOP_K = 3839

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
    numbers, constants = value_types(model), {t.name: t for t in model.graph.initializer}
    types = {name: TensorProto.DataType.Name(number) for name, number in numbers.items()}
    found = [] if opset_of(model) in OPSETS else [f"opset {opset_of(model)}: expected {OPSETS}"]
    return found + [
        f"{node.op_type} {node.name!r}: {fault}"
        for node in model.graph.node
        for fault in _faults(node, types, constants)
    ]


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
    yield from _restrictions(node, constants)


def _restrictions(node: onnx.NodeProto, constants: Constants) -> Iterator[str]:
    """Yield what the list says of single operators, beyond types and constants."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    several_outputs = len([name for name in node.output if name]) > 1
    match node.op_type:
        case "MaxPool":
            if several_outputs:
                yield "indices as an output"
            if set(attributes.get("dilations", [1])) != {1}:
                yield "dilations"
            if len(attributes.get("kernel_shape", [])) not in (2, 3):
                yield "pooling in other than 2 or 3 dimensions"
        case "LayerNormalization" if several_outputs:
            yield "mean and deviation as outputs"
        case "TopK":
            if attributes.get("sorted", 1) != 1:
                yield "results that are not sorted"
            count = constants.get(node.input[1])
            if count is not None and numpy_helper.to_array(count).max() > MOST_TOP_K:
                yield f"more than {MOST_TOP_K} results"
        case "Resize":
            for name, allowed in RESIZE_MODES.items():
                value = attributes.get(name, b"").decode()
                if value and value not in allowed:
                    yield f"{name}={value}"
            if attributes.get("antialias", 0):
                yield "antialiasing"
        case "QuantizeLinear" | "DequantizeLinear" if len(node.input) > 2:
            # TensorRT computes scale times integer: it has no place for an offset.
            zero = constants.get(node.input[2])
            if zero is None or np.any(numpy_helper.to_array(zero)):
                yield "a zero point other than 0"
