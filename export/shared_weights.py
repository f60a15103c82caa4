"""Where the graphs of a package find their weights: as external data in one safetensors file.

Initialisers point into the file beside the graph, in half precision, and a Cast (folded away when a
session opens) makes them float32 again: one file feeds ONNX Runtime and PyTorch. Weights in 8 bits
have a scale a channel beside them, by which a Mul multiplies; see ``networks/stored_weights.py``.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto

from cdvision.errors import ModelError

SCALE = ".scale"  # as ``networks/stored_weights.py`` has it, without PyTorch
PREFIX = "network."  # of every parameter's name in a traced graph
HALF, BYTES = ".fp16", ".int8"  # end the names of stored weights in a graph
TYPES = {"F16": TensorProto.FLOAT16, "I8": TensorProto.INT8, "F32": TensorProto.FLOAT}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a safetensors file, in bytes from the file's start."""

    offset: int
    length: int
    shape: tuple[int, ...]
    kind: str = "F16"  # of its elements, as safetensors names it: F16, I8, or F32 of a scale

    @property
    def suffix(self) -> str:
        """What ends the name of such a weight in a graph."""
        return BYTES if self.kind == "I8" else HALF


def weight_places(weights: Path) -> dict[str, Place]:
    """Read the header of a safetensors file: the places of weights and scales by name."""
    # The file: length of the header as 8 bytes, the header in JSON, then the tensors. Offsets in
    # the header count from the first tensor, those of ONNX from the file's start.
    with open(weights, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    places = {}
    for name, entry in header.items():
        weight = header.get(name.removesuffix(SCALE), entry)
        scale = name.endswith(SCALE) and weight["dtype"] == "I8"
        if name != "__metadata__" and (scale or entry["dtype"] in ("F16", "I8")):
            first, last = entry["data_offsets"]
            shape = tuple(entry["shape"])
            places[name] = Place(8 + size + first, last - first, shape, entry["dtype"])
    return places


def external_tensor(name: str, location: str, place: Place) -> TensorProto:
    """Return an initialiser that points into the file ``location``."""
    tensor = TensorProto(name=name, data_type=TYPES[place.kind], dims=place.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", place.offset), ("length", place.length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def shared_names(model: onnx.ModelProto) -> set[str]:
    """Return the names, in the safetensors file, of the weights that a graph points to."""
    return set(_pointers(model))


def repoint_weights(path: Path, weights: Path) -> None:
    """Look every weight of a written graph up again, in a safetensors file laid out otherwise.

    Raises:
        ModelError: a tensor is gone, or has another shape.
    """
    model, places = onnx.load(path, load_external_data=False), weight_places(weights)
    for name, tensor in _pointers(model).items():
        expected, place = tuple(tensor.dims), places.get(name)
        if place is None or place.shape != expected:
            found = "none" if place is None else place.shape
            raise ModelError(f"{weights}: expected {name} of shape {expected}, found {found}")
        tensor.CopyFrom(external_tensor(tensor.name, weights.name, place))
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))


def _pointers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {
        str(tensor.name).removeprefix(PREFIX).removesuffix(HALF).removesuffix(BYTES): tensor
        for tensor in model.graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    }
