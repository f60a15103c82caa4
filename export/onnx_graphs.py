"""Writes the dense graphs of a network as ONNX, with the weights in one shared safetensors file.

The graphs hold no weights: their initialisers point into ``weights.safetensors`` beside them as
external data, in half precision, and a Cast (folded away when a session opens) makes them
float32 again. So one file feeds ONNX Runtime, PyTorch and TensorRT, and no weight exists twice.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir
from onnxscript.optimizer import optimize_ir
from torch import nn

from cdvision.errors import ModelError
from cdvision.networks.graphs import Graph, example_inputs

OPSET = 18
PREFIX = "network."  # of every parameter's name in a traced graph
EXPORT_SIZE = (192, 256)  # height and width of the example: all strides divide them


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a safetensors file."""

    offset: int
    length: int
    shape: tuple[int, ...]


def export_graph(graph: Graph, path: Path, weights: Path) -> onnx.ModelProto:
    """Export one dense graph with dynamic batch, height and width.

    Args:
        graph: the network and its contract.
        path: the ``.onnx`` file to write, in the folder of ``weights``.
        weights: safetensors file that holds every parameter under the module's own names.
    """
    model = _traced(graph, set(_places(weights)))
    _share_weights(model, weights)
    _strip_traces(model)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))  # by path: the weights are looked up beside the graph
    return model


def _traced(graph: Graph, shared: set[str]) -> onnx.ModelProto:
    height, width = EXPORT_SIZE
    arrays = example_inputs(graph, height=height, width=width, batch=2)
    program = torch.onnx.export(
        _Named(graph.module),
        tuple(torch.from_numpy(arrays[name]) for name in graph.inputs),
        dynamo=True,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=(tuple(_dynamic(axes) for axes in graph.inputs.values()),),
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise ModelError("torch.onnx.export returned no program")
    _simplify(program.model, shared)
    return program.model_proto


def _simplify(model: ir.Model, shared: set[str]) -> None:
    """Fold what is constant, but nothing that holds a shared weight.

    The exporter leaves the limits of a ReLU6 behind a CastLike that no CPU kernel folds, and lists
    behind SplitToSequence. Engines then neither fuse the one nor plan memory over the other: ONNX
    Runtime needed 30 ms for `small`'s encoder where 18 are enough.
    """

    def touches_no_weight(node: ir.Node) -> bool | None:
        names = {(value.name or "").removeprefix(PREFIX) for value in node.inputs if value}
        return False if names & shared else None

    optimize_ir(model, should_fold=touches_no_weight)


class _Named(nn.Module):
    """Gives the exporter a fresh module in evaluation mode, whatever mode its parts were in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.network = module.eval()
        self.eval()

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pass the inputs on."""
        outputs: tuple[torch.Tensor, ...] = self.network(*inputs)
        return outputs


def _dynamic(axes: tuple[str | int, ...]) -> dict[int, object]:
    return {
        place: torch.export.Dim.DYNAMIC for place, axis in enumerate(axes) if isinstance(axis, str)
    }


def _share_weights(model: onnx.ModelProto, weights: Path) -> None:
    """Replace every parameter by a pointer into the safetensors file and a Cast."""
    places, casts = _places(weights), []
    for tensor in model.graph.initializer:
        place = places.get(tensor.name.removeprefix(PREFIX))
        if place is None:
            continue
        if tuple(tensor.dims) != place.shape:
            raise ModelError(f"{tensor.name}: expected {place.shape}, found {tuple(tensor.dims)}")
        name = tensor.name
        casts.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
        tensor.CopyFrom(_external(f"{name}.fp16", weights.name, place))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)


def repoint_weights(path: Path, weights: Path) -> None:
    """Look every weight of a written graph up again: new tensors in the file shift the old ones.

    Args:
        path: a graph that ``export_graph`` wrote.
        weights: the safetensors file beside it, which still holds the tensors of the graph.

    Raises:
        ModelError: a tensor is gone, or has another shape.
    """
    model, places = onnx.load(path, load_external_data=False), _places(weights)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        name = tensor.name.removeprefix(PREFIX).removesuffix(".fp16")
        place, expected = places.get(name), tuple(tensor.dims)
        if place is None or place.shape != expected:
            found = "none" if place is None else place.shape
            raise ModelError(f"{weights}: expected {name} of shape {expected}, found {found}")
        tensor.CopyFrom(_external(tensor.name, weights.name, place))
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's source traces: they are ten times the graph, and name our folders."""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]


def _external(name: str, location: str, place: _Place) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=place.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _places(weights: Path) -> dict[str, _Place]:
    """Read the header of a safetensors file: offsets count from the start of the file."""
    with open(weights, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    places = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F16":
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            places[name] = _Place(8 + size + first, last - first, shape)
    return places


def embedded_bytes(model: onnx.ModelProto) -> int:
    """Bytes of weights that a graph still holds itself."""
    inside = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    return sum(np.asarray(numpy_helper.to_array(t)).nbytes for t in inside)
