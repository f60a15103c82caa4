"""Runs exported graphs beside a reference: how far outputs lie apart, and how long a run takes.

A package's graphs are compared with the PyTorch networks that they were traced from, on random
inputs; what ``cdvision export`` makes of them, with the package's own, on recorded inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.engines import Arrays, Engine, OpenGraph
from cdvision.engines.onnx_engine import OnnxEngine, open_session
from cdvision.errors import EngineError
from cdvision.export.differences import (
    Difference,
    Outputs,
    Tolerance,
    check,
    differences,
    worst,
)
from cdvision.export.recorded_inputs import Inputs
from cdvision.package.loader import ModelPackage

if TYPE_CHECKING:
    from cdvision.networks.graphs import Graph

Run = Callable[[Inputs], Outputs]
TIMED_ROUNDS = 10
COMPARED_RUNS = 12
# Height, width and batch of random inputs: square, both orientations, the least size, a batch.
TRACED_CASES = ((416, 416, 1), (320, 416, 1), (416, 288, 2), (32, 416, 1))


class OnnxGraph:
    """A stand-alone ONNX file in ONNX Runtime.

    Args:
        source: path of the file, or its bytes.
        threads: inside a run; the runtime's default where None.
    """

    def __init__(self, source: str | bytes, *, threads: int | None = None) -> None:
        self._session = open_session(source, threads=threads)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run on named arrays and return named outputs."""
        return dict(zip(self._names, self._session.run(None, dict(inputs)), strict=True))


def reference_engine(package: ModelPackage) -> tuple[str, Engine]:
    """Return PyTorch on the package's weights, or the package's own graphs where one is missing."""
    try:
        from cdvision.engines.torch_engine import TorchEngine

        return "PyTorch", TorchEngine(package)
    except EngineError:
        return "package graphs in ONNX Runtime", OnnxEngine(package)


def largest_differences(
    candidate: OpenGraph, reference: Run, runs: Sequence[Inputs]
) -> dict[str, Difference]:
    """Return the largest differences of every output over single runs and one batch, by name."""
    found: dict[str, Difference] = {}
    for inputs in [*spread(runs, COMPARED_RUNS), *batched(runs)]:
        _keep_worst(found, candidate.run(inputs), reference(inputs))
    return found


def _keep_worst(kept: dict[str, Difference], found: Outputs, expected: Outputs) -> None:
    for item in differences(found, expected):
        kept[item.output] = worst(kept.get(item.output), item)


def check_parity(graph: Graph, path: Path, tolerance: float = 2e-4) -> list[Difference]:
    """Run a traced graph in ONNX Runtime and its network in PyTorch on the same random inputs.

    Args:
        graph: the network and its contract.
        path: the file that was traced from it.
        tolerance: largest difference of floats, relative to an output's largest value. Integers
            may differ by one, where a value falls on a rounding boundary.

    Returns:
        The largest difference of each output.

    Raises:
        ModelError: some output differs by more than that.
    """
    import torch

    from cdvision.networks.graphs import example_inputs

    candidate = OnnxGraph(str(path))
    found: dict[str, Difference] = {}
    for seed, (height, width, batch) in enumerate(TRACED_CASES):
        inputs = example_inputs(graph, height=height, width=width, batch=batch, seed=seed)
        with torch.inference_mode():
            outputs = graph.module(*(torch.from_numpy(inputs[name]) for name in graph.inputs))
        expected = {n: o.numpy() for n, o in zip(graph.outputs, outputs, strict=True)}
        _keep_worst(found, candidate.run(inputs), expected)
    check(str(path), found, Tolerance(tolerance, differing=1.0, steps=1))
    return list(found.values())


def spread(runs: Sequence[Inputs], most: int) -> list[Inputs]:
    """Return at most so many runs, spread evenly over all."""
    count = min(len(runs), most)
    return [runs[number * len(runs) // count] for number in range(count)]


def batched(runs: Sequence[Inputs]) -> list[Inputs]:
    """Join the first two runs of one shape into a batch: what only batches break must show."""
    seen: dict[tuple[tuple[int, ...], ...], Inputs] = {}
    for inputs in runs:
        shape = tuple(value.shape[1:] for value in inputs.values())
        if shape in seen:
            first = seen[shape]
            return [{n: np.concatenate([first[n], inputs[n]]) for n in inputs}]
        seen[shape] = inputs
    return []


def paired_milliseconds(
    candidates: Mapping[str, OpenGraph], runs: Sequence[Inputs], *, rounds: int = TIMED_ROUNDS
) -> dict[str, float]:
    """Median milliseconds of a run of each candidate, all of them in every round.

    What slows the machine down for a while slows all of them alike: only such figures compare.
    Nothing is timed where there are no runs.
    """
    if not runs:
        return {}
    chosen = [runs[number % len(runs)] for number in range(rounds)]
    for candidate in candidates.values():  # the first run of a shape allocates
        candidate.run(chosen[0])
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for inputs in chosen:
        for name, candidate in candidates.items():
            start = perf_counter()
            candidate.run(inputs)
            times[name].append(perf_counter() - start)
    return {name: round(1e3 * float(np.median(values)), 3) for name, values in times.items()}
