"""Writes the folder of a fitted tap: weights, graphs, parity, card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import compose, version_converter
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import ModelError
from cdvision.export.onnx_graphs import OPSET, export_graph
from cdvision.export.parity import check_parity
from cdvision.networks.fitted_tap import FittedTap, FittedTapGraph
from cdvision.networks.graphs import Graph, map_axes
from cdvision.package.card import ModelCard
from cdvision.package.loader import WEIGHTS_FILE, file_sha256
from cdvision.package.tap import TAP_FILE, TapCard

LARGEST_HALF = 65504.0
# Of an answer graph's largest value: behind tens of layers of a user's network, rounding adds up.
TOLERANCE = 2e-3
TRIED_CELLS = 16  # across the empty features that tell the names of a tail's outputs
TAIL_PREFIX = "tail/"


def write_tap(
    folder: Path,
    model: ModelCard,
    card: TapCard,
    decoder: nn.Module,
    tap: FittedTap,
    tail: nn.Module | onnx.ModelProto,
) -> str:
    """Write a tap's folder; the card comes last, so that a folder with one is whole.

    Outputs and files of the card are filled in. ``decoder`` is what the model's taps start with,
    ``tail`` the rest of the network. Returns why the rest could not be exported, empty where it
    was. Raises ModelError where the tap's graph differs from its module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, nn.Module] = {"dequantiser": decoder, "tap": tap}
    if isinstance(tail, nn.Module):
        parts["tail"] = tail
    for part in parts.values():
        round_to_half(part.cpu().float())  # graphs are compared with what the file holds
    save_weights(parts, folder / WEIGHTS_FILE)
    path, answer = folder / f"tap.{card.name}.onnx", folder / f"answer.{card.name}.onnx"
    export_checked(latents_graph(model, FittedTapGraph(decoder, tap), ("features",)), path)

    def answer_graph(tail: nn.Module, outputs: tuple[str, ...]) -> Graph:
        module = FittedTapGraph(decoder, tap, tail, outputs)
        return latents_graph(model, module, ("features", *outputs))

    outputs, problem = write_answer(answer, path, tail, tap.shape.features, answer_graph)
    names = [WEIGHTS_FILE, path.name, *([answer.name] if outputs else [])]
    files = {name: file_sha256(folder / name) for name in names}
    finished = replace(card, outputs=outputs, files=files)
    partial = folder / f"{TAP_FILE}.partial"
    partial.write_text(finished.to_json(), encoding="utf-8")
    os.replace(partial, folder / TAP_FILE)
    return problem


def latents_graph(model: ModelCard, module: nn.Module, outputs: tuple[str, ...]) -> Graph:
    """Return the graph of a module that takes a model's latents; raises ModelError without map."""
    symbols, hyper = model.latents.get(SYMBOLS), model.latents.get(HYPER)
    if symbols is None or hyper is None or symbols.stride is None or hyper.stride is None:
        raise ModelError(f"model {model.name!r}: taps need a map of latents and its hyper-latent")
    axes = map_axes((symbols.channels, symbols.stride), (hyper.channels, hyper.stride))
    dtypes = dict(zip(axes, (torch.int32, torch.int32, torch.int64), strict=True))
    return Graph(module.eval(), axes, outputs, dtypes)


def export_checked(graph: Graph, path: Path, **tolerance: float) -> None:
    """Export a graph beside its weights; raises ModelError where it differs from its module."""
    export_graph(graph, path, path.parent / WEIGHTS_FILE)
    check_parity(graph, path, **tolerance)


def write_answer(
    path: Path,
    tap: Path,
    tail: nn.Module | onnx.ModelProto,
    features: int,
    graph: Callable[[nn.Module, tuple[str, ...]], Graph],
) -> tuple[tuple[str, ...], str]:
    """Write the graph from latents to a network's outputs, where that can be done.

    A ``tail`` in ONNX is joined to the graph ``tap``; of a module and the names of its outputs,
    ``graph`` makes the whole. Returns these names, and why there are none, if so.
    """
    try:
        if isinstance(tail, onnx.ModelProto):
            return merge_answer(tap, tail, path), ""
        with torch.no_grad():
            outputs = tuple(tail(torch.zeros(1, features, TRIED_CELLS, TRIED_CELLS)))
        if "features" in outputs:
            raise ModelError("an output of the network is called 'features', as the tap's own is")
        export_checked(graph(tail, outputs), path, tolerance=TOLERANCE)
        return outputs, ""
    except Exception as error:  # what exporters and a user's network raise has no common base
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):  # a full disk is no property of the network
            raise
        return (), one_line(error)


def one_line(error: Exception) -> str:
    """Say in one line what an exporter or a user's network raised."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def merge_answer(tap: Path, tail: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Join a tap's graph and an ONNX tail into one; return the names of the tail's outputs."""
    first = onnx.load(str(tap))
    # Graphs of one file share an operator set, and names inside two files may well be the same.
    second = compose.add_prefix(version_converter.convert_version(tail, OPSET), TAIL_PREFIX)
    names = tuple(value.name.removeprefix(TAIL_PREFIX) for value in second.graph.output)
    taken = {name for node in first.graph.node for name in (*node.input, *node.output)}
    if taken & set(names):
        raise ModelError(
            f"outputs {list(names)}: expected other names than those inside the tap's graph"
        )
    second.ir_version = first.ir_version
    joined = compose.merge_models(
        first,
        second,
        io_map=[("features", second.graph.input[0].name)],
        outputs=["features", *(value.name for value in second.graph.output)],
    )
    # The network's outputs get their own names back, wherever these are used.
    for value in joined.graph.output:
        plain = value.name.removeprefix(TAIL_PREFIX)
        for node in joined.graph.node:
            for names_used in (node.input, node.output):
                names_used[:] = [plain if one == value.name else one for one in names_used]
        value.name = plain
    onnx.checker.check_model(joined)
    path.write_bytes(joined.SerializeToString())
    return names


def save_weights(
    parts: Mapping[str, nn.Module], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write every tensor once: parameters in half precision, wherever it can hold them."""
    parameters = {f"{k}.{n}" for k, part in parts.items() for n, _ in part.named_parameters()}
    tensors = {}
    for part, module in parts.items():
        for name, value in module.state_dict().items():
            half = f"{part}.{name}" in parameters and fits_half(value)
            # Cloned: safetensors refuses tensors that share memory, as tied weights do.
            tensors[f"{part}.{name}"] = (value.half() if half else value).cpu().contiguous().clone()
    try:
        save_file(tensors, path, dict(metadata or {}))
        path.chmod(0o644)  # safetensors keeps it from all but its owner
    except (OSError, SafetensorError):
        path.unlink(missing_ok=True)  # no half-written file
        raise


def fits_half(value: Tensor) -> bool:
    """Tell whether half precision holds a tensor's range."""
    return value.is_floating_point() and float(value.abs().amax()) < LARGEST_HALF


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Give parameters the values that a package holds of them."""
    for value in module.parameters():
        if fits_half(value):
            value.copy_(value.half().float())
