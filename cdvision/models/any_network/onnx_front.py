"""Puts a user's ONNX network in front of an encoder's graph, where PyTorch cannot trace it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, version_converter

from cdvision.export.onnx_graphs import OPSET
from cdvision.fitting.onnx_network import OnnxNetwork

IMAGE = "image"


def prepend_fronts(path: Path, networks: Mapping[str, OnnxNetwork]) -> None:
    """Let ONNX networks, by name of the input for their features, compute inputs of a graph."""
    # Without the weights beside it: the graph goes on pointing at them.
    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for place, (features, network) in enumerate(networks.items()):
        # Names of two files may well be the same, and graphs of one file share an operator set.
        prefix = f"front{place}/"
        part = compose.add_prefix(version_converter.convert_version(network.front, OPSET), prefix)
        nodes += _pixels(network, prefix, part.graph.input[0].name, graph)
        nodes += part.graph.node
        nodes.append(helper.make_node("Identity", [part.graph.output[0].name], [features]))
        graph.initializer.extend(part.graph.initializer)
        model.functions.extend(part.functions)
        known = {entry.domain for entry in model.opset_import}
        model.opset_import.extend(e for e in part.opset_import if e.domain not in known)
    nodes += graph.node
    inputs = [value for value in graph.input if value.name not in networks]
    if all(value.name != IMAGE for value in inputs):
        shape: list[str | int | None] = ["batch", "height", "width", 3]
        inputs.insert(0, helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))
    # Copies: deleting the graph's nodes deletes what the list points at.
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _pixels(
    network: OnnxNetwork, prefix: str, result: str, graph: onnx.GraphProto
) -> Iterator[onnx.NodeProto]:
    """Give the nodes from the image's bytes to the network's input: ``PixelNormaliser`` in ONNX."""
    constants = {"scale": network.normalise.scale.numpy(), "shift": network.normalise.shift.numpy()}
    steps: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("Cast", (), {"to": TensorProto.FLOAT}),
        ("Transpose", (), {"perm": [0, 3, 1, 2]}),
    ]
    if network.pixels.order == "bgr":
        constants["order"] = np.array([2, 1, 0], np.int64)
        steps.append(("Gather", ("order",), {"axis": 1}))
    steps += [("Mul", ("scale",), {}), ("Add", ("shift",), {})]
    for name, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(array, f"{prefix}{name}"))
    value = IMAGE
    for place, (kind, operands, attributes) in enumerate(steps):
        output = result if place == len(steps) - 1 else f"{prefix}pixels{place}"
        names = [value, *(f"{prefix}{name}" for name in operands)]
        yield helper.make_node(kind, names, [output], **attributes)
        value = output
