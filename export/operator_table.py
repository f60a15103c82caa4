"""Which ONNX operators TensorRT's parser takes, with which types: facts of NVIDIA's published list.

Source: ``docs/operators.md`` of the ONNX-TensorRT parser, branch 10.1-GA (commit 96e7811, June
2024), rewritten. Later releases have added operators and taken none of these away that we know of.
"""

from __future__ import annotations

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
DATA_TYPES = {operator: types for types, names in _TYPES.items() for operator in names.split()}
"""Operator -> types of its data input. Byte tensors may only be inputs or outputs of the whole."""

CONSTANT_INPUTS = {
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Pad": (3,),
    **{name: (1,) for name in DATA_TYPES if name.startswith("Reduce")},
}
"""Operator -> places of the inputs (axes) that must be constants."""

RESIZE_MODES = {
    "mode": {"nearest", "linear"},
    "coordinate_transformation_mode": {
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners",
    },
    "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
    "keep_aspect_ratio_policy": {"stretch"},
}  # fmt: skip
MOST_TOP_K = 3839
