"""Compares an exported graph with the module that it was exported from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from cdvision.errors import ModelError
from cdvision.networks.graphs import Graph, example_inputs

# Height, width and batch: square, both orientations, the least size, and a batch.
CASES = ((416, 416, 1), (320, 416, 1), (416, 288, 2), (32, 416, 1))


@dataclass(frozen=True)
class Parity:
    """The largest difference of one output over all cases."""

    output: str
    absolute: float
    relative: float


def check_parity(graph: Graph, path: Path, *, tolerance: float = 2e-4) -> list[Parity]:
    """Run the graph in ONNX Runtime and in PyTorch on the same random inputs.

    Args:
        graph: the module and its contract.
        path: the exported file.
        tolerance: largest difference allowed, relative to the largest output value. Integer
            outputs may differ by one where a value falls on a rounding boundary.

    Raises:
        ModelError: some output differs by more.
    """
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: dict[str, Parity] = {}
    for seed, (height, width, batch) in enumerate(CASES):
        arrays = example_inputs(graph, height=height, width=width, batch=batch, seed=seed)
        theirs = session.run(None, arrays)
        with torch.inference_mode():
            ours = graph.module(*(torch.from_numpy(arrays[name]) for name in graph.inputs))
        for name, a, b in zip(graph.outputs, theirs, ours, strict=True):
            difference = _difference(name, a, b.numpy())
            _check(path, difference, tolerance, integer=a.dtype.kind in "iu")
            found[name] = _worse(found.get(name), difference)
    return list(found.values())


def _difference(name: str, a: np.ndarray, b: np.ndarray) -> Parity:
    absolute = float(np.abs(a.astype(np.float64) - b).max())
    return Parity(name, absolute, absolute / max(float(np.abs(b).max()), 1e-12))


def _worse(first: Parity | None, second: Parity) -> Parity:
    return second if first is None or second.relative > first.relative else first


def _check(path: Path, parity: Parity, tolerance: float, *, integer: bool) -> None:
    # Asked for what is close, and not for what is far: NaN is neither.
    close = parity.absolute <= 1 if integer else parity.relative <= tolerance
    if not close:
        raise ModelError(
            f"{path}: output {parity.output!r} differs from PyTorch by {parity.absolute:.3g} "
            f"({parity.relative:.1e} of its largest value), expected at most {tolerance:.1e}"
        )


def report(parities: Sequence[Parity]) -> str:
    """One line an output, for a build log."""
    return "\n".join(f"{p.output}: max |difference| {p.absolute:.2e}" for p in parities)
