"""A user's network as an ONNX file, cut in two at a named tensor and run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor

from cdvision.engines.onnx_engine import OnnxGraph
from cdvision.errors import CdvisionError
from cdvision.fitting.cut import shown
from cdvision.fitting.network import PixelFormat, PixelNormaliser, SplitNetwork
from cdvision.package.loader import file_sha256


class OnnxNetwork(SplitNetwork):
    """An ONNX network on the CPU: ``front`` maps images to features, ``tail`` these to outputs."""

    tail: onnx.ModelProto
    passes_gradients = False
    device = torch.device("cpu")

    def __init__(
        self,
        front: onnx.ModelProto,
        tail: onnx.ModelProto,
        facts: dict[str, Any],
        pixels: PixelFormat,
    ) -> None:
        self.facts, self.pixels = facts, pixels
        self.front, self.tail = front, tail
        self.normalise = PixelNormaliser(pixels)
        self._front, self._tail = (OnnxGraph(p.SerializeToString()) for p in (front, tail))

    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to float32 features at the split point."""
        (found,) = self._run(self._front, self.normalise(image.cpu())).values()
        return found.to(image.device)

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to named float32 outputs; no gradient passes."""
        found = self._run(self._tail, features.detach().cpu())
        return {name: value.to(features.device) for name, value in found.items()}

    def _run(self, graph: OnnxGraph, value: Tensor) -> dict[str, Tensor]:
        array = value.contiguous().numpy()
        try:
            outputs = graph.run({graph.inputs[0]: array})
        except Exception as error:  # onnxruntime raises a family without a public base
            reason = " ".join(str(error).split())[:200]
            raise CdvisionError(
                f"{self.facts['source']} cannot run on an input of shape {array.shape} ({reason}): "
                "a network of fixed size cannot read streams, whose sizes vary; export it with "
                "dynamic batch, height and width"
            ) from error
        return {
            name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in outputs.items()
        }


def open_onnx(path: Path, split: str | None, pixels: PixelFormat) -> OnnxNetwork:
    """Read an ONNX file of one input (N, 3, H, W) and cut it at the tensor named ``split``."""
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise CdvisionError(f"--network: no file {path}") from error
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise CdvisionError(f"--network: {path} is no ONNX file ({error})") from error
    _free_sizes(model)
    # Files of old opsets list their weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise CdvisionError(f"{path}: expected one input, an image, found {', '.join(inputs)}")
    tensors = [name for node in model.graph.node for name in node.output if name]
    if split is None or split not in tensors:
        raise CdvisionError(
            f"--split: {path} has no tensor {split or ''!r}: expected one of {shown(tensors)}"
        )
    outputs = [value.name for value in model.graph.output]
    front, tail = _part(model, inputs, [split]), _part(model, [split], outputs)
    _check_tail(tail, split, path)
    weights_hash = f"SHA-256 {file_sha256(path)[:16]}"
    facts = {"source": path.name, "split": split, "weights": weights_hash}
    return OnnxNetwork(front, tail, facts, pixels)


def _free_sizes(model: onnx.ModelProto) -> None:
    """Forget fixed batch, height and width: what was traced at one size often runs at any."""
    # Sizes inside would contradict those that are freed.
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            # An image keeps its three channels; of outputs it is not known which axis they are.
            if place != 1 or value in model.graph.output:
                dim.dim_param = f"{value.name}_{place}"


def _part(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    known = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    for name in inputs + outputs:
        # The extractor wants a type for every end; inference gives none behind custom operators.
        if name not in known:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            graph.value_info.append(value)
    return Extractor(inferred).extract_model(inputs, outputs)


def _check_tail(tail: onnx.ModelProto, split: str, path: Path) -> None:
    """Refuse a tail that reads more than the split tensor."""
    # The extractor leaves out what it cannot reach, without a word: names then have no maker.
    made = {split, ""} | {tensor.name for tensor in tail.graph.initializer}
    made |= {name for node in tail.graph.node for name in node.output}
    missing = {name for node in tail.graph.node for name in node.input} - made
    if missing:
        raise CdvisionError(
            f"{path}: behind {split!r} the network also reads {shown(sorted(missing))} (a skip "
            "connection): split where one tensor carries everything"
        )
