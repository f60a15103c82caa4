"""Writes the dense graphs of a network as ONNX, with the weights in one shared safetensors file."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from onnxscript import ir
from onnxscript.optimizer import optimize_ir
from torch import nn

from cdvision.errors import ModelError
from cdvision.export.shared_weights import PREFIX, SCALE, external_tensor, weight_places
from cdvision.networks.graphs import Graph, example_inputs

OPSET = 18
WIDENED = ".float"  # ends the names of what a Cast makes of bytes
EXPORT_SIZE = (192, 256)  # height and width of the example: all strides divide them


def export_graph(graph: Graph, path: Path, weights: Path) -> onnx.ModelProto:
    """Export one dense graph with dynamic batch, height and width.

    Args:
        graph: the network and its contract.
        path: the ``.onnx`` file to write, in the folder of ``weights``.
        weights: safetensors file that holds every parameter under the module's own names.
    """
    model = _traced(graph, set(weight_places(weights)))
    _share_weights(model, weights)
    _strip_traces(model)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))  # by path: the weights are looked up beside the graph
    return model


def _traced(graph: Graph, shared: set[str]) -> onnx.ModelProto:
    height, width = EXPORT_SIZE
    # Two of a batch: the exporter takes an axis of 1 for fixed.
    arrays = example_inputs(graph, height=height, width=width, batch=2)
    dynamic = [
        {
            place: torch.export.Dim.DYNAMIC
            for place, axis in enumerate(axes)
            if isinstance(axis, str)
        }
        for axes in graph.inputs.values()
    ]
    program = torch.onnx.export(
        _Named(graph.module),
        tuple(torch.from_numpy(arrays[name]) for name in graph.inputs),
        dynamo=True,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        dynamic_shapes=(tuple(dynamic),),
        opset_version=OPSET,
        optimize=False,
        verbose=False,
    )
    if program is None:
        raise ModelError("torch.onnx.export returned no program")
    _simplify(program.model, shared)
    return program.model_proto


def _simplify(model: ir.Model, shared: set[str]) -> None:
    """Fold what is constant, but nothing that holds a shared weight."""

    # The exporter leaves the limits of a ReLU6 behind a CastLike that no CPU kernel folds, and
    # lists behind SplitToSequence. Engines then neither fuse the one nor plan memory over the
    # other: ONNX Runtime needed 30 ms for `small`'s encoder where 18 are enough.
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


def _share_weights(model: onnx.ModelProto, weights: Path) -> None:
    """Replace every parameter by a pointer into the safetensors file, and what widens it."""
    places, nodes, scales = weight_places(weights), [], []
    for tensor in model.graph.initializer:
        place = places.get(tensor.name.removeprefix(PREFIX))
        if place is None:
            continue
        if tuple(tensor.dims) != place.shape:
            raise ModelError(f"{tensor.name}: expected {place.shape}, found {tuple(tensor.dims)}")
        name, stored = tensor.name, f"{tensor.name}{place.suffix}"
        scale = places.get(f"{name.removeprefix(PREFIX)}{SCALE}") if place.kind == "I8" else None
        wide = name if scale is None else f"{stored}{WIDENED}"
        nodes.append(helper.make_node("Cast", [stored], [wide], to=TensorProto.FLOAT))
        tensor.CopyFrom(external_tensor(stored, weights.name, place))
        if scale is not None:
            nodes.append(helper.make_node("Mul", [wide, f"{name}{SCALE}"], [name]))
            scales.append(external_tensor(f"{name}{SCALE}", weights.name, scale))
    model.graph.initializer.extend(scales)
    # In front: a graph's nodes stand in the order of computation.
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)


def _strip_traces(model: onnx.ModelProto) -> None:
    """Drop the exporter's source traces: they are ten times the graph, and name our folders."""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
