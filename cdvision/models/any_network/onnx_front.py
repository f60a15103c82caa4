"""Puts a user's ONNX network in front of an encoder's graph, where PyTorch cannot trace it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from cdvision.export.onnx_graphs import OPSET

IMAGE = "image"


@dataclass(frozen=True)
class OnnxFront:
    """An ONNX network up to its split point, and how pixels enter it.

    Attributes:
        model: one input (N, 3, H, W), one output.
        scale: (1, 3, 1, 1), of the pixels in 0..255.
        shift: (1, 3, 1, 1), added afterwards.
        reversed: the network reads BGR.
    """

    model: onnx.ModelProto
    scale: np.ndarray
    shift: np.ndarray
    reversed: bool


def prepend_fronts(path: Path, fronts: Mapping[str, OnnxFront]) -> None:
    """Let ONNX networks compute inputs of a graph from the image, which becomes its input.

    Args:
        path: graph to change, which takes each network's features as an input.
        fronts: by name of that input.
    """
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for place, (features, front) in enumerate(fronts.items()):
        part = _prefixed(front.model, f"front{place}/")
        nodes += _pixels(front, f"front{place}/", part.graph.input[0].name, graph)
        nodes += part.graph.node
        nodes.append(helper.make_node("Identity", [part.graph.output[0].name], [features]))
        graph.initializer.extend(part.graph.initializer)
        model.functions.extend(part.functions)
        known = {entry.domain for entry in model.opset_import}
        model.opset_import.extend(e for e in part.opset_import if e.domain not in known)
    nodes += graph.node
    inputs = [value for value in graph.input if value.name not in fronts]
    if all(value.name != IMAGE for value in inputs):
        shape: list[str | int | None] = ["batch", "height", "width", 3]
        inputs.insert(0, helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _prefixed(front: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    return compose.add_prefix(version_converter.convert_version(front, OPSET), prefix)


def _pixels(
    front: OnnxFront, prefix: str, result: str, graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    """Return the nodes from the image's bytes to the network's input."""
    constants = {"scale": front.scale, "shift": front.shift}
    steps: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("Cast", (), {"to": TensorProto.FLOAT}),
        ("Transpose", (), {"perm": [0, 3, 1, 2]}),
    ]
    if front.reversed:
        constants["order"] = np.array([2, 1, 0], np.int64)
        steps.append(("Gather", ("order",), {"axis": 1}))
    steps += [("Mul", ("scale",), {}), ("Add", ("shift",), {})]
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{prefix}{name}"))
    nodes: list[onnx.NodeProto] = []
    value = IMAGE
    for place, (kind, operands, attributes) in enumerate(steps):
        output = result if place == len(steps) - 1 else f"{prefix}pixels{place}"
        names = [value, *(f"{prefix}{name}" for name in operands)]
        nodes.append(helper.make_node(kind, names, [output], **attributes))
        value = output
    return nodes
