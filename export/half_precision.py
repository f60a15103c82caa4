"""A graph that computes in float16 where that is safe: what a strongly typed engine needs.

The layers with learned weights, and what only passes their values on, become float16 here. The rest
stays float32: the integer hyper-decoder (exact up to 2^24, which float16 does not hold), rounding,
norms, exponentials, the quantised layers of INT8, and everything that graphs take and return.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cdvision.export.quantise import PARAMETERS, WEIGHTED
from cdvision.export.standalone_graph import drop_unused, replace_nodes, value_types

PASSING = (
    "LeakyRelu", "Relu", "Clip", "MaxPool", "Add", "Mul", "Concat", "Split", "Slice", "Reshape",
    "Transpose", "Resize", "DepthToSpace", "Pad",
)  # fmt: skip
FLOAT_INPUTS = {"Resize": (1, 2)}  # region and scales are float32 by definition
LARGEST = 65504.0  # of float16: a larger weight would become infinite


def half_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a stand-alone float32 or INT8 graph that computes in float16."""
    copy = deepcopy(model)
    _Halver(copy).rewrite()
    drop_unused(copy)
    return copy


class _Halver:
    """Walks the nodes once, in order, and keeps for every value which forms of it exist."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._graph = model, model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        self._types = value_types(model)
        self._halves: dict[str, str] = {}  # float32 value -> its float16 form
        self._pending: dict[str, str] = {}  # value that exists in float16 alone so far
        self._nodes: list[onnx.NodeProto] = []

    def rewrite(self) -> None:
        """Rewrite all nodes in place."""
        # In the order of computation, so that the forms of a node's inputs are known by then.
        for node in list(self._graph.node):
            if self._is_half(node):
                self._halve(node)
            else:
                for name in node.input:
                    self._widen(name)
                self._nodes.append(node)
        for value in self._graph.output:
            self._widen(value.name)
        replace_nodes(self._model, self._nodes)
        del self._graph.value_info[:]  # their types are no longer these

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type in WEIGHTED:
            # The integer networks' weights are no parameters; INT8 weights are no constants.
            return node.input[1].startswith(PARAMETERS) and node.input[1] in self._constants
        if node.op_type not in PASSING or not self._floats(node):
            return False
        # Halving begins at a weighted layer and is passed on; it never begins at an Add.
        data = [name for name in self._floats(node) if name not in self._constants]
        return bool(data) and all(name in self._halves for name in data)

    def _floats(self, node: onnx.NodeProto) -> list[str]:
        """Names of the float32 inputs that a float16 node takes as float16."""
        kept = FLOAT_INPUTS.get(node.op_type, ())
        return [
            name
            for place, name in enumerate(node.input)
            if place not in kept and self._types.get(name) == TensorProto.FLOAT
        ]

    def _halve(self, node: onnx.NodeProto) -> None:
        floats = set(self._floats(node))
        for place, name in enumerate(node.input):
            if name in floats:
                node.input[place] = self._half(name)
        for place, name in enumerate(node.output):
            node.output[place] = f"{name}.half"
            # No Cast yet: where every reader is a float16 node, none is needed.
            self._halves[name] = self._pending[name] = f"{name}.half"
        self._nodes.append(node)

    def _half(self, name: str) -> str:
        if name not in self._halves:
            half = self._halves[name] = f"{name}.half"
            if name in self._constants:
                values = numpy_helper.to_array(self._constants[name])
                narrow = np.clip(values, -LARGEST, LARGEST).astype(np.float16)
                self._graph.initializer.append(numpy_helper.from_array(narrow, half))
            else:
                self._cast(name, half, TensorProto.FLOAT16)
        return self._halves[name]

    def _widen(self, name: str) -> None:
        """Cast back to float32 at the first reader that wants it; later ones find it there."""
        half = self._pending.pop(name, None)
        if half is not None:
            self._cast(half, name, TensorProto.FLOAT)

    def _cast(self, source: str, target: str, to: int) -> None:
        name = f"cast_{target}"
        self._nodes.append(helper.make_node("Cast", [source], [target], name, to=to))
