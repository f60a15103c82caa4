"""How far the outputs of two runs of one graph lie apart, and how far they may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.errors import ModelError

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may lie from a reference.

    Attributes:
        relative: largest difference of floats, relative to the largest value of an output.
        differing: largest share of integers that may differ. Two float engines round a value on a
            boundary either way, and a hyper-latent that falls on the other side changes which of
            its symbols are skipped.
        steps: by how much an integer may differ.
    """

    relative: float
    differing: float
    steps: float = float("inf")


# INT8's is for one quantised graph on two engines; how far it is from float only accuracy tells.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-3),
    "fp16": Tolerance(5e-3, 2e-2),
    "int8": Tolerance(5e-2, 5e-2),
}
FINITE = Tolerance(float("inf"), 1.0)
"""Refuses nothing but values that are no numbers."""


@dataclass(frozen=True)
class Difference:
    """Of one output, over all runs.

    Attributes:
        output: its name.
        absolute: the largest difference.
        relative: of floats, that over the largest value; of integers, the share that differs.
        integer: whether the output holds integers.
        runs: how many runs were compared.
    """

    output: str
    absolute: float
    relative: float
    integer: bool
    runs: int = 1

    def allowed(self, tolerance: Tolerance) -> bool:
        """Say whether it is close enough; NaN is not, for it compares as False."""
        if self.integer:
            return self.relative <= tolerance.differing and self.absolute <= tolerance.steps
        return self.relative <= tolerance.relative


def differences(found: Outputs, expected: Outputs) -> list[Difference]:
    """Compare one run's outputs by name.

    Raises:
        ModelError: an output is missing or has another shape.
    """
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
    return Difference(
        second.output,
        _greater(first.absolute, second.absolute),
        _greater(first.relative, second.relative),
        second.integer,
        first.runs + second.runs,
    )


def _greater(first: float, second: float) -> float:
    return float(np.maximum(first, second))  # keeps NaN; max() drops one that comes second


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
