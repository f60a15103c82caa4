"""The integer transformer of the `sfic-style` codec: decoded rows to the next layer's tables.

::

    symbols of a decoded row ─ linear of that row + bias[quality] ─▶ token ┐
    row that is still to come: a learned token [quality] ──────────────────┴─ blocks ─▶ tokens
    token of a row to come ─ linear of that row + bias[quality] ─▶ table of each of its symbols

One token a row. The rows of one layer are asked for together, so they are coded in parallel;
everything attends to decoded rows only.

Source of the idea: the layer-wise scalable entropy transformer of Mao et al., "Scalable Face Image
Coding via StyleGAN Prior", IEEE TIP 2024, whose details are not public. This design is ours, and so
is its being exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_attention import (
    MAX_TOKENS,
    TOKEN_BOUND,
    Arrays,
    IntegerBlock,
    check_names,
    linear_arrays,
    linear_from,
    on_tokens,
)
from cdvision.entropy.integer_network import EXACT_LIMIT, MAX_BOUND, IntegerLayer, integers
from cdvision.entropy.tables import named_parts, part_of
from cdvision.errors import ModelError

Symbols = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class ScaleTransformer:
    """Symbols of decoded rows to the table indices of the rows that come next.

    Raises:
        ModelError: the parts do not fit each other, or some sum could stop being exact.
    """

    rows: tuple[int, ...]  # of each layer of the stream, two layers or more
    embed: tuple[IntegerLayer, ...]  # symbols to a token, for every row of all layers but the last
    awaited: NDArray[np.int16]  # (qualities, rows, width) tokens of all layers but the first
    blocks: tuple[IntegerBlock, ...]
    tell: tuple[IntegerLayer, ...]  # a token to table indices, for every row but the first layer's
    bound: int  # the network is shown symbols clipped to [-bound, bound]

    def __post_init__(self) -> None:
        if len(self.rows) < 2 or min(self.rows) < 1 or sum(self.rows) > MAX_TOKENS:
            raise ModelError(
                f"scale transformer: expected two layers or more, of 1 to {MAX_TOKENS} rows in "
                f"all, found {self.rows}"
            )
        if not 1 <= self.bound <= MAX_BOUND or not self.blocks:
            raise ModelError("scale transformer: expected blocks, and symbols bounded by 1 to 127")
        self._check_counts()
        self._check_layers()
        self._check_symbols()

    def _check_counts(self) -> None:
        for name, found, expected in (
            ("embed", len(self.embed), sum(self.rows[:-1])),
            ("tell", len(self.tell), sum(self.rows[1:])),
            ("awaited", self.awaited.shape[1] if self.awaited.ndim == 3 else 0, len(self.tell)),
        ):
            if found != expected:
                raise ModelError(
                    f"scale transformer: {name}: expected {expected} rows, found {found}"
                )
        awaited = self.awaited
        sound = awaited.dtype == np.int16 and awaited.size > 0
        # In wider integers: the magnitude of -32768 does not fit into 16 bits.
        if not sound or np.abs(awaited.astype(np.int64)).max() > TOKEN_BOUND:
            raise ModelError(
                f"scale transformer: expected awaited tokens, int16 within {TOKEN_BOUND}"
            )

    def _check_layers(self) -> None:
        width = self.awaited.shape[2]
        if any(block.width != width for block in self.blocks):
            raise ModelError(f"scale transformer: expected blocks of {width} channels")
        for name, given, low, high in (
            ("embed", self.bound, -TOKEN_BOUND, TOKEN_BOUND),
            ("tell", TOKEN_BOUND, 0, 255),
        ):
            for row, layer in enumerate(getattr(self, name)):
                tokens = layer.channels if name == "embed" else layer.weight.shape[1]
                pointwise = (layer.kernel, layer.upsample) == (1, 1)
                if tokens != width or not pointwise or layer.low < low or layer.high > high:
                    raise ModelError(f"scale transformer: {name} of row {row} does not fit")
                if layer.largest_sum(given) >= EXACT_LIMIT:
                    raise ModelError(
                        f"scale transformer: {name} of row {row}: sums may reach "
                        f"{layer.largest_sum(given)}, expected less than 2^24"
                    )

    def _check_symbols(self) -> None:
        """Rows of one layer have equally many symbols, told and embedded."""
        for layer, (first, rows) in enumerate(zip(self._firsts(), self.rows, strict=True)):
            counts = {layer_.weight.shape[1] for layer_ in self.embed[first : first + rows]}
            if layer:
                start = first - self.rows[0]
                counts |= {layer_.channels for layer_ in self.tell[start : start + rows]}
            if len(counts) != 1:
                raise ModelError(
                    f"scale transformer: layer {layer}: expected rows of equally many symbols, "
                    f"found {sorted(counts)}"
                )

    def _firsts(self) -> list[int]:
        return [sum(self.rows[:layer]) for layer in range(len(self.rows))]

    @property
    def qualities(self) -> int:
        """Number of qualities."""
        return len(self.awaited)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Rows and symbols a row of each layer."""
        symbols = [self.embed[first].weight.shape[1] for first in self._firsts()[:-1]]
        return tuple(zip(self.rows, [*symbols, self.tell[-1].channels], strict=True))

    @property
    def highest(self) -> int:
        """Greatest index that can come out."""
        return max(layer.high for layer in self.tell)

    def __call__(self, earlier: Sequence[Symbols], quality: int) -> NDArray[np.uint8]:
        """Return the indices (rows, symbols) of the layer that follows the ``earlier`` ones."""
        clipped = (
            # Rare large symbols tell no more than large ones, and the proof needs a bound.
            np.clip(row, -self.bound, self.bound, dtype=np.int32, casting="unsafe")
            for symbols in earlier
            for row in symbols
        )
        known = [
            on_tokens(layer, row[None], quality)
            for layer, row in zip(self.embed, clipped, strict=False)
        ]
        # Tokens to come are numbered from the second layer's first row.
        first = len(known) - self.rows[0]
        coming = slice(first, first + self.rows[len(earlier)])
        # Rows of one layer do not see each other's symbols: all of them are told at once.
        tokens = np.concatenate([*known, self.awaited[quality, coming].astype(np.int32)])
        for block in self.blocks:
            tokens = block(tokens, len(known))
        told = [
            on_tokens(layer, token[None], quality)
            for layer, token in zip(self.tell[coming], tokens[len(known) :], strict=True)
        ]
        return np.concatenate(told).astype(np.uint8)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays that an npz file stores; ``from_arrays`` reads them back."""
        arrays: dict[str, NDArray[np.generic]] = {
            "rows": np.array(self.rows, np.int32),
            "bound": np.array([self.bound], np.int32),
            "awaited": self.awaited,
        }
        parts = {f"embed/{i}": linear_arrays(layer) for i, layer in enumerate(self.embed)}
        parts |= {f"blocks/{i}": block.to_arrays() for i, block in enumerate(self.blocks)}
        parts |= {f"tell/{i}": linear_arrays(layer) for i, layer in enumerate(self.tell)}
        return arrays | named_parts(parts)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ScaleTransformer:
        """Rebuild a network from ``to_arrays``, proofs included; raises ModelError."""
        parts = {name: _numbered(arrays, name) for name in ("embed", "blocks", "tell")}
        numbered = {f"{n}/{i}/{k}" for n, ps in parts.items() for i, p in enumerate(ps) for k in p}
        check_names(arrays, {"rows", "bound", "awaited"} | numbered)
        (bound,) = integers(arrays["bound"], 1)
        return cls(
            rows=tuple(integers(arrays["rows"], arrays["rows"].size)),
            embed=tuple(map(linear_from, parts["embed"])),
            awaited=arrays["awaited"],  # type: ignore[arg-type]
            blocks=tuple(map(IntegerBlock.from_arrays, parts["blocks"])),
            tell=tuple(map(linear_from, parts["tell"])),
            bound=bound,
        )


def _numbered(arrays: Arrays, name: str) -> list[Arrays]:
    """Split ``name/0/...``, ``name/1/...`` and so on, up to the first number that is missing."""
    parts: list[Arrays] = []
    while part := part_of(arrays, f"{name}/{len(parts)}"):
        parts.append(part)
    return parts
