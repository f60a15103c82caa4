"""Triton's Python model that answers from dense outputs: ``<model>_<task>_write/1/model.py``.

The same numpy code as in cdvision itself. The heads of two-stage detectors run behind the choice
of regions: it calls their graphs on this server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

import cdvision

Array = NDArray[Any]


class TritonPythonModel:
    """Bytes of streams and dense outputs to one JSON text a stream."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the package's tables and classes; called once by the server."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        self._model = cdvision.load(Path(args["model_repository"]) / parameters["package"])
        self._model.engine = ServerEngine(json.loads(parameters["graphs"]))
        self._task, self._tail = parameters["task"], parameters["tail"]
        self._options = json.loads(parameters["options"])
        self._inputs = json.loads(parameters["inputs"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        bits = pb_utils.get_input_tensor_by_name(request, "STREAM").as_numpy().reshape(-1)
        dense = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in self._inputs
        }
        try:
            texts = [
                self._answer(bytes(one), {name: value[place] for name, value in dense.items()})
                for place, one in enumerate(bits)
            ]
        except cdvision.CdvisionError as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        answers = np.array([text.encode() for text in texts], object)[:, None]
        return pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", answers)])

    def _answer(self, bits: bytes, dense: dict[str, Array]) -> str:
        stream = self._model.open(bits)
        nothing = np.empty(0, np.float32)  # features: the answer graph has used them
        graph = self._model.card.graph_for(self._task, self._tail)
        stream.keep_outputs(self._tail, graph, {"features": nothing, **dense})
        text: str = stream.ask(self._task, **self._options).to_json()
        return text


class ServerEngine:
    """Runs graphs as models of the server that this one runs on.

    Args:
        graphs: graph -> ``{"model": name, "outputs": [names]}``.
    """

    def __init__(self, graphs: Mapping[str, Mapping[str, Any]]) -> None:
        self._graphs = graphs

    def run(self, graph: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one graph on named arrays and return its named outputs."""
        place = self._graphs[graph]
        response = pb_utils.InferenceRequest(
            model_name=place["model"],
            requested_output_names=list(place["outputs"]),
            inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
        ).exec()
        if response.has_error():
            raise cdvision.EngineError(f"{place['model']}: {response.error().message()}")
        return {
            name: pb_utils.get_output_tensor_by_name(response, name).as_numpy()
            for name in place["outputs"]
        }
