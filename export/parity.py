"""Compares exported graphs with a reference: how far outputs lie apart, how long a run takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.engines import Engine, OpenGraph
from cdvision.engines.onnx_engine import OnnxEngine, OnnxGraph
from cdvision.errors import EngineError, ModelError
from cdvision.export.recorded_inputs import Inputs, spread
from cdvision.package.loader import ModelPackage

if TYPE_CHECKING:
    from cdvision.networks.graphs import Graph

Outputs = Mapping[str, NDArray[Any]]
Run = Callable[[Inputs], Outputs]
TIMED_ROUNDS = 10
COMPARED_RUNS = 12
# Height, width and batch of random inputs: square, both orientations, the least size, a batch.
TRACED_CASES = ((416, 416, 1), (320, 416, 1), (416, 288, 2), (32, 416, 1))


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may lie from a reference.

    Attributes:
        relative: largest difference of floats, relative to the largest value of an output.
        differing: largest share of integers that may differ.
        steps: by how much an integer may differ.
    """

    # Integers differ too: two float engines round a value on a boundary either way, and a
    # hyper-latent that falls on the other side changes which of its symbols are skipped.
    relative: float
    differing: float
    steps: float = float("inf")


# INT8's is for one quantised graph on two engines; how far it is from float only accuracy tells.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-3),
    "fp16": Tolerance(5e-3, 2e-2),
    "int8": Tolerance(5e-2, 5e-2),
}
FINITE = Tolerance(float("inf"), 1.0)  # refuses nothing but NaN


@dataclass(frozen=True)
class Difference:
    """The largest difference of one output, over a number of runs.

    Attributes:
        relative: of floats, ``absolute`` over the largest value; of integers, the share that
            differs.
    """

    output: str
    absolute: float
    relative: float
    integer: bool
    runs: int = 1

    def allowed(self, tolerance: Tolerance) -> bool:
        """Say whether it is close enough; NaN is not."""
        # Asked with <= throughout: NaN compares as False.
        if self.integer:
            return self.relative <= tolerance.differing and self.absolute <= tolerance.steps
        return self.relative <= tolerance.relative


def differences(found: Outputs, expected: Outputs) -> list[Difference]:
    """Compare one run's outputs; raises ModelError where one is missing or of another shape."""
    return [_difference(name, found.get(name), expected[name]) for name in expected]


def _difference(name: str, found: NDArray[Any] | None, expected: NDArray[Any]) -> Difference:
    if found is None or found.shape != expected.shape:
        shape = "none" if found is None else found.shape
        raise ModelError(f"output {name!r}: expected shape {expected.shape}, found {shape}")
    # In float64: the difference of two unsigned or narrow integers would wrap.
    apart = np.abs(found.astype(np.float64) - expected)
    absolute = float(apart.max(initial=0.0))
    if expected.dtype.kind in "iu":
        return Difference(name, absolute, float((apart > 0).mean()), integer=True)
    # Against the largest value, not each its own: next to 0 every rounding is a large share.
    largest = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    return Difference(name, absolute, absolute / largest, integer=False)


def worst(first: Difference | None, second: Difference) -> Difference:
    """Join the differences of one output over several runs."""
    if first is None:
        return second
    return replace(
        second,
        # Not max(), which drops a NaN that comes second.
        absolute=float(np.maximum(first.absolute, second.absolute)),
        relative=float(np.maximum(first.relative, second.relative)),
        runs=first.runs + second.runs,
    )


def check(graph: str, found: Mapping[str, Difference], tolerance: Tolerance) -> None:
    """Raise ModelError where an output lies outside its tolerance."""
    for item in found.values():
        if not item.allowed(tolerance):
            limit = tolerance.differing if item.integer else tolerance.relative
            whole = "of the integers differ" if item.integer else "of its largest value"
            raise ModelError(
                f"{graph}: output {item.output!r} lies {item.absolute:.3g} from the reference: "
                f"{item.relative:.1e} {whole}, expected at most {limit:.1e}; it is refused"
            )


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
        tolerance: largest difference of floats, relative to an output's largest value.

    Returns:
        The largest difference of each output.

    Raises:
        ModelError: some output differs by more.
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
    # Any integer may differ, by one: random inputs put many values on a rounding boundary.
    check(str(path), found, Tolerance(tolerance, differing=1.0, steps=1))
    return list(found.values())


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
    """Return the median milliseconds of a run of each candidate; nothing where there are no runs.

    Every round runs all candidates, so that what slows the machine down slows all of them alike.
    """
    if not runs:
        return {}
    chosen = [runs[number % len(runs)] for number in range(rounds)]
    # Not timed: the first run of a shape allocates.
    for candidate in candidates.values():
        candidate.run(chosen[0])
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for inputs in chosen:
        for name, candidate in candidates.items():
            start = perf_counter()
            candidate.run(inputs)
            times[name].append(perf_counter() - start)
    return {name: round(1e3 * float(np.median(values)), 3) for name, values in times.items()}
