"""Triton's Python model that decodes streams; exported as ``<model>_decode/1/model.py``.

It needs cdvision's base install in Triton's Python, and the package's tables beside it: no weights,
no engine. What it gives are the inputs of every answer graph, for streams of one input size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

import cdvision

Array = NDArray[Any]


class TritonPythonModel:
    """Bytes of streams to latents, quality and what classifiers look at."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the package's tables; called once by the server."""
        parameters = json.loads(args["model_config"])["parameters"]
        package = Path(args["model_repository"]) / parameters["package"]["string_value"]
        self._model = cdvision.load(package)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; a damaged stream fails its own request alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        bits = pb_utils.get_input_tensor_by_name(request, "STREAM").as_numpy().reshape(-1)
        try:
            arrays = self._decoded([bytes(one) for one in bits])
        except cdvision.CdvisionError as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in arrays.items()]
        )

    def _decoded(self, bits: list[bytes]) -> dict[str, Array]:
        streams = [self._model.open(one) for one in bits]
        sizes = {stream.input_size for stream in streams}
        if len(sizes) != 1:
            raise cdvision.CdvisionError(
                f"expected streams of one input size in a request, found {sorted(sizes)}"
            )
        joined = {}
        for tail in self._model.card.tails:
            single = [stream.graph_inputs(tail) for stream in streams]
            for name in single[0]:
                values = np.concatenate([one[name] for one in single])
                joined[output_name(tail, name)] = values
        joined["quality"] = joined["quality"][:, None]  # Triton gives every tensor a second axis
        return joined


def output_name(tail: str, name: str) -> str:
    """Latents are the same for every tail; what a classifier looks at is its own."""
    shared = ("symbols", "hyper", "descriptor", "quality")
    return name if name in shared else f"{tail}_{name}"
