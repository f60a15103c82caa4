"""A user's network as an ONNX file, cut in two at a named tensor and run by ONNX Runtime."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx.utils import Extractor
from torch import Tensor

from cdvision.errors import CdvisionError
from cdvision.fit.network import SplitNetwork
from cdvision.fit.pixels import PixelFormat, PixelNormaliser

NAMES_SHOWN = 12


class OnnxNetwork(SplitNetwork):
    """An ONNX network on the CPU; it takes no gradient.

    Args:
        front: image to features.
        tail: features to outputs.
        facts: for the card.
        pixels: of its input.

    Attributes:
        front: as given; the encoder of a model that serves the network is made of it.
        tail: as given; a package's ``answer`` graph is made of it.
        normalise: pixels to the network's input.
    """

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
        self._front, self._tail = _session(front), _session(tail)

    def features(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) RGB in 0..255 to float32 features at the split point."""
        found = self._run(self._front, self.normalise(image.cpu()))
        return next(iter(found.values())).to(image.device)

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to named float32 outputs; no gradient passes."""
        found = self._run(self._tail, features.detach().cpu())
        return {name: value.to(features.device) for name, value in found.items()}

    def _run(self, session: ort.InferenceSession, value: Tensor) -> dict[str, Tensor]:
        name = session.get_inputs()[0].name
        array = value.contiguous().numpy()
        try:
            outputs = session.run(None, {name: array})
        except Exception as error:  # onnxruntime raises a family without a public base
            reason = " ".join(str(error).split())[:200]
            raise CdvisionError(
                f"{self.facts['source']} cannot run on an input of shape {array.shape} ({reason}): "
                "a network of fixed size cannot read streams, whose sizes vary; export it with "
                "dynamic batch, height and width"
            ) from error
        names = [output.name for output in session.get_outputs()]
        return {
            name: torch.from_numpy(np.asarray(value, np.float32))
            for name, value in zip(names, outputs, strict=True)
        }


def open_onnx(path: Path, split: str | None, pixels: PixelFormat) -> OnnxNetwork:
    """Read and cut an ONNX file.

    Args:
        path: the file; one input, (N, 3, H, W).
        split: name of a tensor inside.
        pixels: what it expects of its input.

    Raises:
        CdvisionError: the file cannot be read, or cannot be cut there.
    """
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise CdvisionError(f"--network: no file {path}") from error
    except Exception as error:  # protobuf's and onnx's errors share no base
        raise CdvisionError(f"--network: {path} is no ONNX file ({error})") from error
    _free_sizes(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise CdvisionError(f"{path}: expected one input, an image, found {', '.join(inputs)}")
    tensors = [name for node in model.graph.node for name in node.output if name]
    if split is None or split not in tensors:
        raise CdvisionError(
            f"--split: {path} has no tensor {split or ''!r}: expected one of {_shown(tensors)}"
        )
    outputs = [value.name for value in model.graph.output]
    front, tail = _part(model, inputs, [split]), _part(model, [split], outputs)
    _check_tail(tail, split, path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    facts = {"source": path.name, "split": split, "weights": f"SHA-256 {digest[:16]}"}
    return OnnxNetwork(front, tail, facts, pixels)


def _free_sizes(model: onnx.ModelProto) -> None:
    """Forget fixed batch, height and width: what was traced at one size often runs at any."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for place, dim in enumerate(dims):
            if place != 1 or value in model.graph.output:
                dim.dim_param = f"{value.name}_{place}"


def _part(model: onnx.ModelProto, inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name for v in (*inferred.graph.value_info, *inferred.graph.input)}
    for name in inputs + outputs:  # the extractor wants a type for every end
        if name not in known | {v.name for v in inferred.graph.output}:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            inferred.graph.value_info.append(value)
    return Extractor(inferred).extract_model(inputs, outputs)


def _check_tail(tail: onnx.ModelProto, split: str, path: Path) -> None:
    """Everything that the tail reads must come from the split tensor."""
    made = {split, ""} | {tensor.name for tensor in tail.graph.initializer}
    made |= {name for node in tail.graph.node for name in node.output}
    missing = {name for node in tail.graph.node for name in node.input} - made
    if missing:
        raise CdvisionError(
            f"{path}: behind {split!r} the network also reads {_shown(sorted(missing))} (a skip "
            "connection): split where one tensor carries everything"
        )


def _shown(names: list[str]) -> str:
    return f"{', '.join(names[:NAMES_SHOWN])}{' ...' if len(names) > NAMES_SHOWN else ''}"


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
        raise CdvisionError(f"ONNX Runtime cannot open a part of the network ({reason})") from error
