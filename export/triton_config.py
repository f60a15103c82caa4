"""``config.pbtxt`` files: Triton's model configuration, as protobuf text.

Source: ``protobuf/model_config.proto`` of triton-inference-server/common (July 2026).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import indent
from typing import Any

QUEUE_DELAY = 2000  # microseconds that a request may wait for batch mates
TYPES = {
    "float": "TYPE_FP32",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "string": "TYPE_STRING",
}
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model on the server.

    Attributes:
        dtype: a key of ``TYPES``.
        dims: without the batch axis where the model has one; -1 where dynamic.
        scalar: one number a batch entry.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    scalar: bool = False

    def message(self) -> Message:
        """Give the fields of a ``ModelInput`` or ``ModelOutput``."""
        # An empty shape is a scalar: of the server's (batch, 1) the graph sees (batch,).
        reshape: Message = {"reshape": {}} if self.scalar else {}
        kind = {"data_type": TYPES[self.dtype], "dims": self.dims}
        return {"name": self.name, **kind, **reshape}


@dataclass(frozen=True)
class ServedModel:
    """One model of the repository.

    Attributes:
        backend: ``"python"``, ``"onnxruntime"`` or ``"tensorrt"``; None for an ensemble.
        batch: most entries of a batch; 0 where the first axis is no batch.
        parameters: for Python models.
        steps: of an ensemble, see ``ensemble_step``.
    """

    name: str
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    backend: str | None
    batch: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    steps: Sequence[Message] = ()

    def text(self) -> str:
        """Return the whole ``config.pbtxt``."""
        kind = {"backend": self.backend} if self.backend else {"platform": "ensemble"}
        given = {key: {"string_value": value} for key, value in self.parameters.items()}
        message: dict[str, Any] = {
            "name": self.name,
            **kind,
            "max_batch_size": self.batch,
            "input": [tensor.message() for tensor in self.inputs],
            "output": [tensor.message() for tensor in self.outputs],
            "parameters": _entries(given),
        }
        if self.steps:
            message["ensemble_scheduling"] = {"step": self.steps}
        elif self.batch:
            message["dynamic_batching"] = {"max_queue_delay_microseconds": QUEUE_DELAY}
        return "\n".join(_lines(message)) + "\n"


def ensemble_step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Message:
    """Describe one model of an ensemble; maps are from its tensors' names to the ensemble's."""
    maps = {"input_map": _entries(inputs), "output_map": _entries(outputs)}
    return {"model_name": model, "model_version": -1, **maps}


def _entries(values: Mapping[str, Any]) -> list[Message]:
    # Protobuf text has no maps: one is a repeated message of a key and a value.
    return [{"key": key, "value": value} for key, value in values.items()]


def _lines(message: Message) -> Iterator[str]:
    """Yield a message as protobuf text; a sequence is a field that is repeated."""
    for name, value in message.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, Mapping):
                yield f"{name} {{"
                yield from (indent(line, "  ") for line in _lines(item))
                yield "}"
            else:
                # Strings take JSON's escapes of printable text; names of enums stand unquoted.
                yield f"{name}: {item if name == 'data_type' else json.dumps(item)}"
