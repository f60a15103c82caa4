"""Two small coders with random weights whose indices reach every table, the skipped one too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Latents
from cdvision.entropy.context_network import OFFSETS, ContextNetwork
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.entropy.tables import gaussian_tables, tables_from_probabilities
from cdvision.models.dicm.receiver.coder import CheckerboardCoder

QUALITIES, CHANNELS, HYPER_CHANNELS, BOUND, LEVELS = 3, 5, 2, 4, 12
STEP = 4  # cells of the symbols' map across one of the hyper-latent's: two doublings
FEATURES, TOLD, CONTEXT = 4, 3, 6  # widths of the context network
Key, Value = TypeVar("Key"), TypeVar("Value")
Arrays = dict[str, NDArray[np.generic]]
Coder = HyperpriorCoder | CheckerboardCoder
Change = Callable[[NDArray[np.generic]], NDArray[np.generic]]
"""Of one of a coder's arrays, for tests that its fingerprint covers every number."""


@cache
def small_hyperprior() -> HyperpriorCoder:
    rng = np.random.default_rng(11)
    layers = (
        IntegerLayer(
            rng.integers(-40, 41, (16, HYPER_CHANNELS, 3, 3)).astype(np.int8),
            rng.integers(0, 300, (1, 16)).astype(np.int32), 4, 0, 127, 2,
        ),
        IntegerLayer(
            rng.integers(-40, 41, (4 * CHANNELS, 4, 3, 3)).astype(np.int8),
            rng.integers(0, 2000, (QUALITIES, 4 * CHANNELS)).astype(np.int32), 9, 0, LEVELS - 1, 2,
        ),
    )  # fmt: skip
    prior = rng.dirichlet(np.ones(2 * BOUND + 1), QUALITIES * HYPER_CHANNELS)
    return HyperpriorCoder(
        symbol_tables=gaussian_tables(np.geomspace(0.11, 40.0, LEVELS)),
        hyper_tables=tables_from_probabilities(prior, -BOUND, escape=False),
        network=IntegerNetwork(layers, BOUND),
        qualities=QUALITIES,
        channels=CHANNELS,
    )


def _layer(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    bias: NDArray[np.integer],
    shift: int,
    high: int,
    upsample: int = 1,
) -> IntegerLayer:
    weight = rng.integers(-40, 41, shape).astype(np.int8)
    return IntegerLayer(weight, bias.astype(np.int32), shift, 0, high, upsample)


@cache
def small_context() -> ContextNetwork:
    rng, out = np.random.default_rng(5), LEVELS - 1
    seen = FEATURES + len(OFFSETS) * TOLD

    def bias(rows: int, columns: int, high: int) -> NDArray[np.integer]:
        return rng.integers(0, high, (rows, columns))

    hyper = (
        _layer(rng, (16, HYPER_CHANNELS, 3, 3), bias(1, 16, 600), 4, 127, 2),
        _layer(rng, (4 * FEATURES, 4, 3, 3), bias(1, 4 * FEATURES, 4000), 6, 127, 2),
    )
    first = _layer(rng, (CHANNELS, FEATURES, 1, 1), bias(QUALITIES, CHANNELS, 4000), 9, out)
    squeeze = _layer(rng, (TOLD, CHANNELS, 1, 1), bias(1, TOLD, 400), 4, 127)
    gather = _layer(rng, (CONTEXT, seen, 1, 1), bias(QUALITIES, CONTEXT, 8000), 7, 127)
    second = _layer(rng, (CHANNELS, CONTEXT, 1, 1), bias(QUALITIES, CHANNELS, 4000), 9, out)
    return ContextNetwork(
        hyper=IntegerNetwork(hyper, BOUND),
        first=IntegerNetwork((first,), 127),
        squeeze=IntegerNetwork((squeeze,), 32),
        second=IntegerNetwork((gather, second), 127),
    )


@cache
def small_checkerboard() -> CheckerboardCoder:
    prior = np.random.default_rng(11).dirichlet(np.ones(2 * BOUND + 1), QUALITIES * HYPER_CHANNELS)
    return CheckerboardCoder(
        symbol_tables=gaussian_tables(np.geomspace(0.11, 40.0, LEVELS)),
        hyper_tables=tables_from_probabilities(prior, -BOUND, escape=False),
        network=small_context(),
        qualities=QUALITIES,
        channels=CHANNELS,
    )


def random_latents(seed: int, height: int, width: int, spread: float = 3.0) -> Latents:
    """Symbols with heavy tails and uniform hyper-latents; both coders take them."""
    rng, shapes = np.random.default_rng(seed), map_shapes(height, width)
    hyper = rng.integers(-BOUND, BOUND + 1, shapes["hyper"])
    heavy = rng.standard_cauchy(shapes["symbols"]) * spread
    symbols = np.clip(np.rint(heavy), 1 - 2**20, 2**20 - 1)
    return {"symbols": symbols.astype(np.int32), "hyper": hyper.astype(np.int32)}


def map_shapes(height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of both coders' latents for a map of ``height`` x ``width`` cells."""
    rows, columns = (height + STEP - 1) // STEP, (width + STEP - 1) // STEP
    return {"symbols": (CHANNELS, height, width), "hyper": (HYPER_CHANNELS, rows, columns)}


def same_latents(first: Latents, second: Latents) -> bool:
    """Whether two latents are equal, names, order and dtypes included."""
    return list(first) == list(second) and all(
        one.dtype == second[name].dtype == np.int32 and np.array_equal(one, second[name])
        for name, one in first.items()
    )


def first_of(parts: Mapping[Key, Value], count: int) -> dict[Key, Value]:
    """Return the first few of latents, or of bodies: those of a stream that was cut."""
    return dict(islice(parts.items(), count))


def moved_slot(frequencies: NDArray[np.generic], number: int = -1) -> NDArray[np.generic]:
    """Move one slot from a frequency (that ``number`` of those above 2) to the one before it."""
    changed = frequencies.copy()
    wide = int(np.flatnonzero(changed[:-1] > 2)[number])
    changed[wide] -= 1
    changed[wide - 1] += 1
    return changed


def raised(*place: int) -> Change:
    """Return the change that adds one to the number at a place."""

    def change(array: NDArray[np.generic]) -> NDArray[np.generic]:
        changed = array.copy()
        changed[place] += 1
        return changed

    return change
