"""A transformer block in integers: what chooses tables must be the same on every machine.

::

    tokens ─┬─ linear ─▶ queries, keys, values ─ attention ─ linear ─ + ─ clip ─┬─▶
            └───────────────────────────────────────────────────────┘          │
      ─┬─ linear, clip at 0 ─ linear ─ + ─ clip ─▶ tokens
       └───────────────────────────────┘

Linear layers are ``IntegerLayer``s with kernels of 1x1: integers whose sums stay below 2^24 and are
therefore exact in any order. A key's weight is looked up by how far its score
lies below the query's best, and normalised by an exact division of integers. There is no layer
normalisation: static ranges keep numbers in place.

Source of the idea: Vaswani et al., "Attention Is All You Need", NeurIPS 2017. In integers, and with
the proofs, it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdvision.core.networks import attend
from cdvision.entropy.integer_network import EXACT_LIMIT, LAYER_ARRAYS, IntegerLayer, integers
from cdvision.entropy.tables import named_parts, part_of
from cdvision.errors import ModelError

# Tokens lie in [-255, 255]: whatever int8 weights, sums over 512 of them are exact.
TOKEN_BOUND = 255
PROJECTED_BOUND = 127
MAX_TOKENS = 64
MAX_EXPONENT = 4096
MAX_DISTANCES = 1024
LAYERS = ("project_in", "project_out", "expand", "contract")

Tokens = NDArray[np.int32]
Arrays = Mapping[str, NDArray[np.generic]]


def exponent_table(octave: int = 16, largest: int = 1024) -> NDArray[np.uint16]:
    """Return weights by distance, ``largest * 2^(-distance / octave)``, rounded, to the first 0.

    >>> exponent_table(octave=1, largest=4)
    array([4, 2, 1, 0], dtype=uint16)
    """
    # Below half, which is log2(largest) + 1 octaves away, a weight is rounded to 0.
    count = int(octave * (np.log2(largest) + 1)) + 2
    table = np.rint(largest * 2.0 ** (-np.arange(count) / octave)).astype(np.uint16)
    return table[: int((table > 0).sum()) + 1]


@dataclass(frozen=True, eq=False)
class IntegerBlock:
    """One transformer block; its tokens attend to the first ones only, those that are known.

    Raises:
        ModelError: the parts do not fit each other, or some sum could stop being exact.
    """

    # Tokens to queries, keys and values, 3 * width channels within [-127, 127].
    project_in: IntegerLayer
    project_out: IntegerLayer  # what heads found to an addition to the tokens
    expand: IntegerLayer  # tokens to hidden channels
    contract: IntegerLayer  # those to an addition to the tokens
    heads: int  # their number divides the width
    shift: int  # bits dropped from scores
    # Weight of a key by distance of its score from the best, decreasing.
    exponents: NDArray[np.uint16]

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_exponents()
        self._prove_exact()

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.project_out.channels

    def _check_shapes(self) -> None:
        width, hidden = self.width, self.expand.channels
        shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
        for name, expected in zip(LAYERS, shapes, strict=True):
            layer: IntegerLayer = getattr(self, name)
            if layer.weight.shape != (*expected, 1, 1) or layer.upsample != 1:
                raise ModelError(
                    f"integer attention: {name}: expected weights {expected} of 1x1, "
                    f"found {layer.weight.shape}"
                )
        if not 1 <= self.heads <= width or width % self.heads or not 1 <= self.shift <= 16:
            raise ModelError(
                f"integer attention: expected heads that divide {width} and a shift of 1 to 16, "
                f"found {self.heads} and {self.shift}"
            )

    def _check_exponents(self) -> None:
        table = self.exponents
        sound = table.dtype == np.uint16 and table.ndim == 1 and 1 <= len(table) <= MAX_DISTANCES
        if not sound or not 1 <= table[0] <= MAX_EXPONENT or (np.diff(table.astype(int)) > 0).any():
            raise ModelError(
                f"integer attention: expected up to {MAX_DISTANCES} exponents, uint16, decreasing "
                f"from 1 to {MAX_EXPONENT}"
            )

    def _prove_exact(self) -> None:
        size = self.width // self.heads
        # A score is a product of two projected vectors of a head, with the offset of its shift.
        sums = {
            "project_in": self.project_in.largest_sum(TOKEN_BOUND),
            "scores": size * PROJECTED_BOUND**2 + 2 ** (self.shift - 1),
            "project_out": self.project_out.largest_sum(largest_attended()),
            "expand": self.expand.largest_sum(TOKEN_BOUND),
            "contract": self.contract.largest_sum(self.expand.largest_output),
        }
        for name, largest in sums.items():
            if largest >= EXACT_LIMIT:
                raise ModelError(
                    f"integer attention: {name}: sums may reach {largest}, expected less than 2^24"
                )
        bounds = {"project_in": PROJECTED_BOUND, "project_out": TOKEN_BOUND}
        for name, bound in {**bounds, "contract": TOKEN_BOUND}.items():
            if (found := getattr(self, name).largest_output) > bound:
                raise ModelError(
                    f"integer attention: {name}: expected outputs within [-{bound}, {bound}], "
                    f"found {found}"
                )

    def __call__(self, tokens: Tokens, known: int) -> Tokens:
        """Map tokens (T, width), int32, of which the first ``known`` are keys.

        T is at most 64: the proof of the weighted sums counts on it.
        """
        projected = on_tokens(self.project_in, tokens)
        attended = attend(projected, known, self.heads, self.shift, self.exponents)
        tokens = _added(tokens, on_tokens(self.project_out, attended))
        return _added(tokens, on_tokens(self.contract, on_tokens(self.expand, tokens)))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays that an npz file stores; ``from_arrays`` reads them back."""
        settings: dict[str, NDArray[np.generic]] = {
            "settings": np.array([self.heads, self.shift], np.int32),
            "exponents": self.exponents,
        }
        return settings | named_parts({n: linear_arrays(getattr(self, n)) for n in LAYERS})

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> IntegerBlock:
        """Rebuild a block from ``to_arrays``, proofs included; raises ModelError."""
        parts = {f"{name}/{part}" for name in LAYERS for part in LAYER_ARRAYS}
        check_names(arrays, {"settings", "exponents"} | parts)
        heads, shift = integers(arrays["settings"], 2)
        layers = {name: linear_from(part_of(arrays, name)) for name in LAYERS}
        exponents = arrays["exponents"]
        if exponents.dtype != np.uint16:
            raise ModelError(f"integer attention: expected uint16 exponents, {exponents.dtype}")
        return cls(**layers, heads=heads, shift=shift, exponents=exponents)  # type: ignore[arg-type]


def largest_attended() -> int:
    """Return the bound of what heads find."""
    # Each of 64 weights is rounded up by half at the most: they add up to 2^8 + 32 at the most.
    weights = 2**8 + MAX_TOKENS // 2
    return (weights * PROJECTED_BOUND + 2**7) >> 8


def on_tokens(layer: IntegerLayer, tokens: Tokens, quality: int = 0) -> Tokens:
    """Apply a layer of 1x1 to tokens (T, channels)."""
    found: Tokens = layer(tokens[None], quality)[0]
    return found


def linear_arrays(layer: IntegerLayer) -> dict[str, NDArray[np.generic]]:
    """Give a 1x1 layer's arrays: weight (out, channels), bias (qualities, out), settings."""
    settings = np.array([layer.shift, layer.low, layer.high], np.int32)
    return {"weight": layer.weight[:, :, 0, 0], "bias": layer.bias, "settings": settings}


def linear_from(arrays: Arrays) -> IntegerLayer:
    """Rebuild a 1x1 layer from ``linear_arrays``; raises ModelError."""
    check_names(arrays, set(LAYER_ARRAYS))
    weight, bias = arrays["weight"], arrays["bias"]
    if weight.ndim != 2 or weight.dtype != np.int8 or bias.dtype != np.int32:
        raise ModelError(
            "integer linear layer: expected int8 weights (out, channels) and int32 biases, "
            f"found {weight.dtype}{weight.shape} and {bias.dtype}"
        )
    shift, low, high = integers(arrays["settings"], 3)
    return IntegerLayer(weight[:, :, None, None], bias, shift, low, high)  # type: ignore[arg-type]


def check_names(arrays: Arrays, expected: set[str]) -> None:
    """Refuse missing and unknown arrays; raises ModelError."""
    if set(arrays) != expected:
        wrong = sorted(set(arrays) ^ expected)
        raise ModelError(f"integer network: missing or unknown arrays {wrong[:4]}")


def _added(tokens: Tokens, addition: Tokens) -> Tokens:
    # Both are integers of at most 255, so the sum is exact.
    addition += tokens
    np.clip(addition, -TOKEN_BOUND, TOKEN_BOUND, out=addition)
    return addition
