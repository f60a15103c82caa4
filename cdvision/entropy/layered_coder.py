"""What the coders of vectors and small maps share: arrays of fixed shapes, one a layer.

::

    latents of layer 0 ─▶ body 0
    latents of layer 1 ─▶ body 1      its tables may be chosen by layer 0's decoded symbols
    latents of layer 2 ─▶ body 2      ... and by layer 1's

Both directions walk through a layer by one and the same method, ``_code_layer``: it says which
part comes next and which table codes each element, and is handed that part's symbols. An encoder
takes them from the latents, a decoder from the bytes, and neither can ask in another order.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from types import EllipsisType
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Coder, EncodedLayer, Latents, Shapes, Symbols
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import ModelError

# Selects elements of a layer's array, as in ``array[chosen]``: basic slices only.
Selection: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"


class Code(Protocol):
    """Codes one part of a layer; what ``_code_layer`` is handed."""

    def __call__(
        self, part: Selection, index: NDArray[np.integer], tables: SymbolTables
    ) -> Symbols:
        """Return the symbols of the next ``part`` of the layer's array as the receiver has them.

        ``index`` gives each one's table. A symbol outside of a table without an escape becomes the
        nearest one within; where a table holds one symbol only, nothing is coded.
        """


class LayeredCoder(Coder):
    """Layers of one array each, whose sizes are fixed by the model; their bodies are short."""

    compact: ClassVar[bool] = True

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of the latents, by name."""

    @abstractmethod
    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        """Call ``code`` for the parts of a layer, in the order of coding, until all are known.

        What it returns may choose the tables of later parts; see ``Coder.encode_layer`` for the
        other arguments.
        """

    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the shapes that a card gives latents with the coder's; raises ModelError."""
        if dict(shapes) != self.shapes:
            raise ModelError(f"latents: expected shapes {self.shapes}, found {dict(shapes)}")

    def encode_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> EncodedLayer:
        """Encode one array; see ``Coder.encode_layer``."""
        from cdvision.entropy.range_coder import Segment, encode_short

        taken = self._taken(layer, latents, quality, known)
        body = encode_short([Segment(*segment) for segment in taken.segments])
        return EncodedLayer(body, {self._name(layer): taken.symbols})

    def decode_layer(
        self, layer: int, body: bytes, quality: int, shapes: Shapes, known: Latents
    ) -> Latents:
        """Decode one array; see ``Coder.decode_layer``."""
        self.check_quality(quality)
        name = self._name(layer)
        reading = _Reading(body, self.shapes[name])
        self._code_layer(layer, known, quality, reading)
        reading.decoder.finish()
        return {name: reading.symbols}

    def received_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> Latents:
        """Return an array as the receiver is going to have it."""
        return {self._name(layer): self._taken(layer, latents, quality, known).symbols}

    def estimate_layer_bits(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> float:
        """Return the ideal code length of one array under the integer tables."""
        taken = self._taken(layer, latents, quality, known)
        return sum(tables.estimate_bits(symbols, i) for symbols, i, tables in taken.segments)

    def _name(self, layer: int) -> str:
        """Return the name of a layer's one array."""
        (name,) = next(one.latents for one in self.layers if one.id == layer)
        return name

    def _taken(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> _Taking:
        self.check_quality(quality)
        name = self._name(layer)
        array, shape = latents[name], self.shapes[name]
        if array.shape != shape or array.dtype != np.int32:
            raise CodingError(
                f"latents {name!r}: expected int32 of shape {shape}, "
                f"found {array.dtype} of shape {array.shape}"
            )
        taking = _Taking(array)
        self._code_layer(layer, known, quality, taking)
        return taking


class _Taking:
    """Takes symbols from latents and notes what is to be coded."""

    def __init__(self, latents: Symbols) -> None:
        self.latents = latents
        self.symbols = np.zeros(latents.shape, np.int32)
        self.segments: list[tuple[Symbols, NDArray[np.integer], SymbolTables]] = []

    def __call__(
        self, part: Selection, index: NDArray[np.integer], tables: SymbolTables
    ) -> Symbols:
        low, high = _codable(tables)
        symbols = np.clip(self.latents[part], low[index], high[index])
        self.segments.append((symbols, index, tables))
        self.symbols[part] = symbols
        return symbols


class _Reading:
    """Reads symbols from a body."""

    def __init__(self, body: bytes, shape: tuple[int, ...]) -> None:
        from cdvision.entropy.range_coder import RangeDecoder

        self.decoder = RangeDecoder(body)
        self.symbols = np.zeros(shape, np.int32)

    def __call__(
        self, part: Selection, index: NDArray[np.integer], tables: SymbolTables
    ) -> Symbols:
        symbols = self.decoder.read(index, tables)
        self.symbols[part] = symbols
        return symbols


# Cached because a model codes every stream with the same few tables, which hash by identity.
@lru_cache(maxsize=32)
def _codable(tables: SymbolTables) -> tuple[Symbols, Symbols]:
    """Return the least and greatest symbol of each table, no bounds where it has an escape."""
    escape = tables.frequencies[tables.escapes] > 0
    low, high = tables.low.astype(np.int32), tables.high.astype(np.int32)
    low[escape], high[escape] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    return low, high
