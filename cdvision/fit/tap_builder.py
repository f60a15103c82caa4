"""Writes the folder of a fitted tap: weights, graphs, parity, card.

Needs the ``train`` extra; using a tap needs neither PyTorch nor the user's network.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from onnx import compose, version_converter
from safetensors.torch import save_file
from torch import Tensor, nn

from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import CdvisionError, ModelError
from cdvision.export.onnx_graphs import OPSET, export_graph
from cdvision.export.parity import check_parity
from cdvision.networks.fitted_tap import FittedAnswerGraph, FittedTap, FittedTapGraph
from cdvision.networks.graphs import Graph, map_axes
from cdvision.package.card import ModelCard
from cdvision.package.loader import WEIGHTS_FILE, file_sha256
from cdvision.package.tap import TAP_FILE, TapCard

LARGEST_HALF = 65504.0
INTEGERS = (torch.int32, torch.int32, torch.int64)
# Of an answer graph's largest value: behind tens of layers of a user's network, rounding adds up.
TOLERANCE = 2e-3


def write_tap(
    folder: Path,
    model: ModelCard,
    card: TapCard,
    decoder: nn.Module,
    tap: FittedTap,
    tail: nn.Module | onnx.ModelProto | None,
) -> tuple[TapCard, str | None]:
    """Write a tap's folder; the card comes last, so that a folder with one is whole.

    Args:
        folder: where to write; made where missing.
        model: card of the model.
        card: without outputs and files, which are filled in.
        decoder: what the model's taps start with.
        tap: the fitted tap.
        tail: the rest of the network, as a module that returns named outputs or as ONNX.

    Returns:
        The finished card, and why the rest of the network could not be exported, if so.

    Raises:
        ModelError: the tap's graph differs from its module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = tail if isinstance(tail, nn.Module) else None
    parts = {"dequantiser": decoder, "tap": tap} | ({} if module is None else {"tail": module})
    for part in parts.values():
        round_to_half(part.cpu().float())  # graphs are compared with what the file holds
    weights = folder / WEIGHTS_FILE
    save_weights(parts, weights)
    graph = _graph(model, FittedTapGraph(decoder, tap), ("features",))
    path = folder / f"tap.{card.name}.onnx"
    export_graph(graph, path, weights)
    check_parity(graph, path)
    outputs: Sequence[str] = ()
    problem, answer = None, folder / f"answer.{card.name}.onnx"
    try:
        if module is not None:
            outputs = _write_answer(model, decoder, tap, module, answer, weights)
        elif isinstance(tail, onnx.ModelProto):
            outputs = merge_answer(path, tail, answer)
    except OSError:  # a full disk is no property of the network
        answer.unlink(missing_ok=True)
        raise
    except Exception as error:  # what exporters and a user's network raise has no common base
        answer.unlink(missing_ok=True)
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    names = [WEIGHTS_FILE, path.name, *([answer.name] if outputs else [])]
    files = {name: file_sha256(folder / name) for name in names}
    finished = replace(card, outputs=tuple(outputs), files=files)
    partial = folder / f"{TAP_FILE}.partial"
    partial.write_text(finished.to_json(), encoding="utf-8")
    os.replace(partial, folder / TAP_FILE)
    return finished, problem


def _graph(model: ModelCard, module: nn.Module, outputs: tuple[str, ...]) -> Graph:
    symbols, hyper = model.latents.get(SYMBOLS), model.latents.get(HYPER)
    if symbols is None or hyper is None or symbols.stride is None or hyper.stride is None:
        raise ModelError(f"model {model.name!r}: taps need a map of latents and its hyper-latent")
    axes = map_axes((symbols.channels, symbols.stride), (hyper.channels, hyper.stride))
    return Graph(module.eval(), axes, outputs, dict(zip(axes, INTEGERS, strict=True)))


def _write_answer(
    model: ModelCard,
    decoder: nn.Module,
    tap: FittedTap,
    tail: nn.Module,
    path: Path,
    weights: Path,
) -> tuple[str, ...]:
    with torch.no_grad():
        shape = (1, tap.shape.features, 16, 16)
        found: Mapping[str, Tensor] = tail(torch.zeros(shape))
    names = tuple(found)
    if "features" in names:
        raise ModelError("an output of the network is called 'features', as the tap's own is")
    graph = _graph(model, FittedAnswerGraph(decoder, tap, tail, names), ("features", *names))
    export_graph(graph, path, weights)
    check_parity(graph, path, tolerance=TOLERANCE)
    return names


def merge_answer(tap: Path, tail: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """Join a tap's graph and an ONNX tail into one; return the names of the tail's outputs."""
    first = onnx.load(str(tap))
    second = version_converter.convert_version(tail, OPSET)
    second = compose.add_prefix(second, "tail/")
    names = [value.name.removeprefix("tail/") for value in second.graph.output]
    taken = {name for node in first.graph.node for name in (*node.input, *node.output)}
    if taken & set(names):
        raise ModelError(f"outputs {names}: expected other names than those inside the tap's graph")
    second.ir_version = first.ir_version
    joined = compose.merge_models(
        first,
        second,
        io_map=[("features", second.graph.input[0].name)],
        outputs=["features", *(value.name for value in second.graph.output)],
    )
    _rename_outputs(joined)
    onnx.checker.check_model(joined)
    path.write_bytes(joined.SerializeToString())
    return tuple(names)


def _rename_outputs(model: onnx.ModelProto) -> None:
    """Give the network's outputs their own names back."""
    for value in model.graph.output:
        plain = value.name.removeprefix("tail/")
        for node in model.graph.node:
            for places in (node.input, node.output):
                for place, name in enumerate(places):
                    if name == value.name:
                        places[place] = plain
        value.name = plain


def save_weights(
    parts: Mapping[str, nn.Module], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write every tensor once: parameters in half precision, wherever it can hold them."""
    parameters = {f"{k}.{n}" for k, part in parts.items() for n, _ in part.named_parameters()}
    tensors = {}
    for part, module in parts.items():
        for name, value in module.state_dict().items():
            half = f"{part}.{name}" in parameters and fits_half(value)
            tensors[f"{part}.{name}"] = (value.half() if half else value).cpu().contiguous().clone()
    try:
        save_file(tensors, path, dict(metadata or {}))
        path.chmod(0o644)  # safetensors keeps it from all but its owner
    except Exception as error:  # safetensors' own errors derive from Exception alone
        path.unlink(missing_ok=True)
        raise CdvisionError(
            f"{path} cannot be written ({' '.join(str(error).split())}): make room and start the "
            "same command again, nothing of the training is lost"
        ) from error


def fits_half(value: Tensor) -> bool:
    """Tell whether half precision holds a tensor's range."""
    return value.is_floating_point() and float(value.abs().amax()) < LARGEST_HALF


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Give parameters the values that a package holds of them."""
    for value in module.parameters():
        if fits_half(value):
            value.copy_(value.half().float())
