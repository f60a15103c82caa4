"""A package's graph as one ONNX model that needs no file beside it, and no PyTorch to make.

::

    package graph ─ embed weights ─ fold constants ─ cast bytes first ─ name axes ─ describe
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from cdvision.errors import ModelError
from cdvision.export.graph_contract import Axes, meaning, named_axes
from cdvision.package.loader import ModelPackage
from cdvision.version import __version__

REFERENCE = "reference."  # graphs of the benchmark: no part of sender or receiver
FOLDED_BYTES = 2**26  # larger constants are left as expressions


def graph_names(package: ModelPackage) -> list[str]:
    """Names of the graphs that a sender or a receiver runs, in the card's order."""
    names = [file.removesuffix(".onnx") for file in package.card.files if file.endswith(".onnx")]
    return [name for name in names if not name.startswith(REFERENCE)]


def standalone_graph(
    package: ModelPackage, graph: str, *, half_weights: bool = False
) -> onnx.ModelProto:
    """Return a package's graph with its weights inside.

    Weights are float32, or with ``half_weights`` float16, each with a Cast to float32 behind it
    (half the size, the same results).

    Raises:
        ModelError: the package has no such graph, or it cannot be read.
    """
    path = package.graph_path(graph)
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise ModelError(f"{path}: not an ONNX graph with its weights ({error})") from error
    if not half_weights:
        fold_constants(model)  # the Cast behind each weight too
    _cast_bytes_first(model)
    _cast_bytes_last(model)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        axes = named_axes(package.card, graph, value.name, axes_of(value))
        for dim, axis in zip(dims, axes, strict=True):
            if isinstance(axis, str):
                dim.dim_param = axis
    _describe(model, package, graph)
    return model


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type, as a number of ``TensorProto``, of every value of a graph."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Replace all nodes of a graph."""
    # At once: removing one compares it with every node before it. And by copies: the nodes given
    # belong to the list that is emptied.
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def fold_constants(model: onnx.ModelProto) -> None:
    """Compute what depends on weights alone."""
    # Engines quantise and fuse plain weights only, not what a node makes of them.
    constants = {t.name: t for t in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}  # a node must give them
    kept = []
    # Nodes stand in the order of computation: inputs that were folded are constants by now.
    for node in model.graph.node:
        names = [name for name in node.input if name]
        if not names or outputs & set(node.output) or not all(n in constants for n in names):
            kept.append(node)
            continue
        folded = _evaluated(model, node, [constants[name] for name in dict.fromkeys(names)])
        # A weight's Cast is folded whatever its size: behind it an engine sees no weight.
        if node.op_type != "Cast" and sum(len(t.raw_data) for t in folded) > FOLDED_BYTES:
            kept.append(node)
            continue
        model.graph.initializer.extend(folded)
        constants |= {tensor.name: tensor for tensor in folded}
    replace_nodes(model, kept)
    drop_unused(model)


def _evaluated(
    model: onnx.ModelProto, node: onnx.NodeProto, inputs: list[TensorProto]
) -> list[TensorProto]:
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", [], outputs, initializer=inputs)
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    values = ReferenceEvaluator(single).run(None, {})
    return [
        numpy_helper.from_array(np.asarray(value), name)
        for value, name in zip(values, node.output, strict=True)
    ]


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop the weights that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    for place in reversed(range(len(model.graph.initializer))):  # places before it stay as they are
        if model.graph.initializer[place].name not in used:
            del model.graph.initializer[place]


def _cast_bytes_first(model: onnx.ModelProto) -> None:
    """Make a Cast the only reader of a uint8 input."""
    # TensorRT takes bytes as inputs and outputs of the whole, and in no operator but Cast.
    graph = model.graph
    for value in graph.input:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        name = f"{value.name}.float"
        for node in graph.node:
            node.input[:] = [name if read == value.name else read for read in node.input]
        label = f"cast_{value.name}"
        cast = helper.make_node("Cast", [value.name], [name], label, to=TensorProto.FLOAT)
        graph.node.insert(0, cast)


def _cast_bytes_last(model: onnx.ModelProto) -> None:
    """Let a Cast give a uint8 output: one that a Transpose moves is moved before it is cast."""
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = [name for node in model.graph.node for name in node.input]
    for value in model.graph.output:
        last = producers[value.name]
        if value.type.tensor_type.elem_type != TensorProto.UINT8 or last.op_type != "Transpose":
            continue
        cast = producers.get(last.input[0])
        if cast is None or cast.op_type != "Cast" or readers.count(cast.output[0]) != 1:
            continue
        # float -> Cast -> Transpose -> bytes becomes float -> Transpose -> Cast -> bytes.
        last.input[0], last.output[0] = cast.input[0], f"{value.name}.float"
        cast.input[0], cast.output[0] = last.output[0], value.name
        moved = onnx.NodeProto.FromString(cast.SerializeToString())
        model.graph.node.remove(cast)
        model.graph.node.append(moved)  # nothing reads an output: it may come last


def axes_of(value: onnx.ValueInfoProto) -> Axes:
    """Axes of an input or output: integers where fixed, names where dynamic."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in dims)


def _describe(model: onnx.ModelProto, package: ModelPackage, graph: str) -> None:
    """Record names and meanings in the metadata, where every ONNX viewer shows them."""
    card = package.card
    values = {}
    for kind, ends in (("input", model.graph.input), ("output", model.graph.output)):
        for value in ends:
            dtype = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
            axes = ", ".join(map(str, axes_of(value)))
            values[f"{kind}.{value.name}"] = f"{dtype} ({axes}): {meaning(value.name)}"
    model.producer_name, model.producer_version = "cdvision", __version__
    model.doc_string = f"{card.name}: {graph}"
    helper.set_model_props(
        model,
        {
            "cdvision.model": card.name,
            "cdvision.graph": graph,
            "cdvision.fingerprint": card.fingerprint,
            "cdvision.version": __version__,
            "cdvision.licence": card.licence,
            "cdvision.opset": str(opset_of(model)),
            **values,
        },
    )


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a graph uses."""
    return max(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
