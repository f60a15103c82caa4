"""Triton's Python model: ``1/model.py`` of ``<model>_decode`` and ``<model>_<task>_write``.

It needs cdvision's base install in Triton's Python, and the package's tables: no weights, no
engine. The same numpy code answers as in cdvision itself; the heads of two-stage detectors run
behind the choice of regions: it calls their graphs on this server.
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

Arrays = dict[str, NDArray[Any]]


class TritonPythonModel:
    """Streams to the inputs of every answer graph; with a task, streams and outputs to JSON."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the package's tables and classes; called once by the server."""
        given = json.loads(args["model_config"])["parameters"]
        self._parameters = {name: value["string_value"] for name, value in given.items()}
        self._model = cdvision.load(Path(args["model_repository"]) / self._parameters["package"])
        if "task" in self._parameters:
            self._model.engine = ServerEngine(json.loads(self._parameters["graphs"]))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer every request; a damaged stream fails its own request alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        bits = pb_utils.get_input_tensor_by_name(request, "STREAM").as_numpy().reshape(-1)
        streams = [bytes(one) for one in bits]
        try:
            if "task" in self._parameters:
                arrays = {"ANSWER": self._answers(streams, request)}
            else:
                arrays = self._decoded(streams, frozenset(_requested(request)))
        except cdvision.CdvisionError as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in arrays.items()]
        )

    def _decoded(self, bits: list[bytes], wanted: frozenset[str]) -> Arrays:
        """Return what answer graphs take, by the server's names, for streams of one input size.

        A stream may hold the layers of one task alone: tails whose layers have not arrived are left
        out, unless something of theirs is ``wanted``; all that can be had is where that is empty.
        """
        streams = [self._model.open(one) for one in bits]
        sizes = {stream.input_size for stream in streams}
        if len(sizes) != 1:
            raise cdvision.CdvisionError(
                f"expected streams of one input size in a request, found {sorted(sizes)}"
            )
        joined: Arrays = {}
        missing: cdvision.BitstreamError | None = None
        for tail in self._model.card.tails:
            try:
                for stream in streams:
                    stream.layers_for(tail)
            except cdvision.BitstreamError as error:
                missing = error
                continue
            single = [stream.graph_inputs(tail) for stream in streams]
            for name in single[0]:
                # Latents are the same for every tail; what a classifier looks at is its own.
                shared = name in self._model.card.latents or name == "quality"
                values = np.concatenate([one[name] for one in single])
                joined[name if shared else f"{tail}_{name}"] = values
        if missing is not None and (not joined or wanted - joined.keys()):
            raise missing
        joined["quality"] = joined["quality"][:, None]  # Triton gives every tensor a second axis
        return joined

    def _answers(self, bits: list[bytes], request: Any) -> NDArray[Any]:
        """Return one JSON text a stream, from the dense outputs that the request holds too."""
        task, tail = self._parameters["task"], self._parameters["tail"]
        options = json.loads(self._parameters["options"])
        dense = {
            name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in json.loads(self._parameters["inputs"])
        }
        graph = self._model.card.graph_for(task, tail)
        nothing = np.empty(0, np.float32)  # features: the answer graph has used them
        texts = []
        for place, one in enumerate(bits):
            stream = self._model.open(one)
            own = {name: value[place] for name, value in dense.items()}
            stream.keep_outputs(tail, graph, {"features": nothing, **own})
            texts.append(stream.ask(task, **options).to_json().encode())
        return np.array(texts, object)[:, None]


def _requested(request: Any) -> Sequence[str]:
    """Return the outputs that a request asks for: an ensemble asks for what its graph takes."""
    asked = getattr(request, "requested_output_names", None)
    return () if asked is None else list(asked())


class ServerEngine:
    """Runs graphs as models of the server that this one runs on.

    Args:
        graphs: graph -> ``{"model": name, "outputs": [names]}``.
    """

    def __init__(self, graphs: Mapping[str, Mapping[str, Any]]) -> None:
        self._graphs = graphs

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
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
