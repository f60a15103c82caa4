"""``config.pbtxt`` files: Triton's model configuration, as protobuf text.

Source: ``protobuf/model_config.proto`` of triton-inference-server/common (July 2026).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

QUEUE_DELAY = 2000  # microseconds that a request may wait for batch mates
TYPES = {
    "float": "TYPE_FP32",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "string": "TYPE_STRING",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model on the server.

    Attributes:
        name: of the tensor.
        dtype: a key of ``TYPES``.
        dims: without the batch axis where the model has one; -1 where dynamic.
        scalar: one number a batch entry: the server's axis of 1 is taken off for the graph.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    scalar: bool = False

    def text(self) -> str:
        """Give the fields of a ``ModelInput`` or ``ModelOutput``."""
        dims = ", ".join(map(str, self.dims))
        reshape = " reshape { shape: [ ] }" if self.scalar else ""
        kind = f"data_type: {TYPES[self.dtype]} dims: [ {dims} ]{reshape}"
        return f"{{ name: {quoted(self.name)} {kind} }}"


@dataclass(frozen=True)
class Step:
    """One model of an ensemble; maps are from its own tensor names to the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def text(self) -> str:
        """Give the fields of an ensemble's step."""
        return "\n".join(
            [
                "    {",
                f"      model_name: {quoted(self.model)}",
                "      model_version: -1",
                *(f"      input_map {_entry(item)}" for item in self.inputs.items()),
                *(f"      output_map {_entry(item)}" for item in self.outputs.items()),
                "    }",
            ]
        )


@dataclass(frozen=True)
class ServedModel:
    """One model of the repository.

    Attributes:
        name: of its folder.
        inputs: tensors it takes.
        outputs: tensors it gives.
        backend: ``"python"``, ``"onnxruntime"`` or ``"tensorrt"``; None for an ensemble.
        batch: most entries of a batch; 0 where the first axis is no batch.
        parameters: for Python models.
        steps: of an ensemble.
    """

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    backend: str | None
    batch: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Step] = ()

    def text(self) -> str:
        """Return the whole ``config.pbtxt``."""
        lines = [f"name: {quoted(self.name)}", self._kind(), f"max_batch_size: {self.batch}"]
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            lines += [f"{kind} [", ",\n".join(f"  {t.text()}" for t in tensors), "]"]
        for key, value in self.parameters.items():
            lines.append(
                f"parameters {{ key: {quoted(key)} value: {{ string_value: {quoted(value)} }} }}"
            )
        if self.steps:
            steps = ",\n".join(step.text() for step in self.steps)
            lines.append(f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}")
        elif self.batch:
            lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY} }}")
        return "\n".join(lines) + "\n"

    def _kind(self) -> str:
        if self.backend is None:
            return 'platform: "ensemble"'
        return f"backend: {quoted(self.backend)}"


def quoted(text: str) -> str:
    """Quote a string for protobuf text, which takes JSON's escapes of printable text."""
    return json.dumps(text)


def _entry(item: tuple[str, str]) -> str:
    return f"{{ key: {quoted(item[0])} value: {quoted(item[1])} }}"
