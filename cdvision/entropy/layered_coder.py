"""What the codecs of several layers share: one body a layer, each decodable from those before it.

::

    latents of layer 0 ─▶ body 0
    latents of layer 1 ─▶ body 1      its tables may be chosen by layer 0's decoded symbols
    latents of layer 2 ─▶ body 2      ... and by layer 1's

Both directions walk through a layer by one and the same method, ``_code_layer``: it says which
part comes next and which table codes each element, and is handed that part's symbols. An encoder
takes them from the latents, a decoder from the bytes, and neither can ask in another order.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from types import EllipsisType
from typing import ClassVar, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_network import joined_bytes
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import BitstreamError

Symbols: TypeAlias = NDArray[np.int32]
Part: TypeAlias = "int | slice | EllipsisType | tuple[int | slice | EllipsisType, ...]"
"""What selects elements of a layer's array, as in ``array[part]``: basic slices only."""


class Code(Protocol):
    """Codes one part of a layer; what ``_code_layer`` is handed."""

    def __call__(self, part: Part, index: NDArray[np.integer], tables: SymbolTables) -> Symbols:
        """Return the symbols of ``part`` as the receiver has them.

        Args:
            part: elements of the layer's array that come next.
            index: the table of each one, of the shape of ``array[part]``.
            tables: a symbol outside of a table without an escape becomes the nearest one within;
                where a table holds one symbol only, nothing is coded.
        """


class LayeredCoder(ABC):
    """The latents of one image to one body a layer, and back; sizes are fixed by the model.

    Qualities count from 0. A list of bodies may end after any layer, and so may a list of latents.

    Attributes:
        layer_ids: id of each layer in a stream, in the order of coding.
        qualities: number of qualities.
    """

    layer_ids: ClassVar[tuple[int, ...]]
    qualities: int

    @property
    @abstractmethod
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each layer's latents."""

    @abstractmethod
    def _code_layer(self, layer: int, earlier: Sequence[Symbols], quality: int, code: Code) -> None:
        """Call ``code`` for the parts of a layer, in the order of coding, until all are known.

        Args:
            layer: position of the layer.
            earlier: the symbols of the layers before it, as the receiver has them.
            quality: counts from 0.
            code: see ``Code``; what it returned may choose the tables of later parts.
        """

    @abstractmethod
    def canonical_parts(self) -> list[bytes]:
        """Serialise everything that decides which bits mean which latents."""

    @abstractmethod
    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild a coder from ``tables.npz``, checking everything; raises ModelError."""

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over ``canonical_parts``."""
        return hashlib.sha256(joined_bytes(self.canonical_parts())).digest()

    def encode(self, latents: Sequence[Symbols], quality: int) -> list[bytes]:
        """Return one body for each of ``latents``; symbols that are not coded are lost.

        Raises:
            CodingError: shapes are not those of the layers, or a symbol cannot be coded.
        """
        from cdvision.entropy.range_coder import Segment, encode_short

        return [
            encode_short([Segment(*segment) for segment in taken.segments])
            for taken in self._taken(latents, quality)
        ]

    def decode(self, bodies: Sequence[bytes], quality: int) -> list[Symbols]:
        """Return the latents of as many layers as there are bodies; raises BitstreamError."""
        self._check_count(len(bodies), quality)
        decoded: list[Symbols] = []
        for layer, body in enumerate(bodies):
            reading = _Reading(body, self.shapes[layer])
            self._code_layer(layer, tuple(decoded), quality, reading)
            reading.decoder.finish()
            decoded.append(reading.symbols)
        return decoded

    def keep_coded(self, latents: Sequence[Symbols], quality: int) -> list[Symbols]:
        """Return what the receiver is going to see of ``latents``."""
        return [taken.symbols for taken in self._taken(latents, quality)]

    def estimate_bits(self, latents: Sequence[Symbols], quality: int) -> list[float]:
        """Ideal code length of each layer under the integer tables."""
        return [
            sum(tables.estimate_bits(symbols, index) for symbols, index, tables in taken.segments)
            for taken in self._taken(latents, quality)
        ]

    def _taken(self, latents: Sequence[Symbols], quality: int) -> list[_Taking]:
        self._check_count(len(latents), quality)
        taken: list[_Taking] = []
        for layer, array in enumerate(latents):
            if array.shape != self.shapes[layer] or array.dtype != np.int32:
                raise CodingError(
                    f"latents of layer {layer}: expected int32 of shape {self.shapes[layer]}, "
                    f"found {array.dtype} of shape {array.shape}"
                )
            taking = _Taking(array)
            self._code_layer(layer, tuple(t.symbols for t in taken), quality, taking)
            taken.append(taking)
        return taken

    def _check_count(self, count: int, quality: int) -> None:
        if not 0 <= quality < self.qualities:
            raise CodingError(f"quality: expected 0 to {self.qualities - 1}, found {quality}")
        if count > len(self.layer_ids):
            raise BitstreamError(
                "number of layers", expected=f"at most {len(self.layer_ids)}", found=count
            )


class _Taking:
    """Takes symbols from latents and notes what is to be coded."""

    def __init__(self, latents: Symbols) -> None:
        self.latents = latents
        self.symbols = np.zeros(latents.shape, np.int32)
        self.segments: list[tuple[Symbols, NDArray[np.integer], SymbolTables]] = []

    def __call__(self, part: Part, index: NDArray[np.integer], tables: SymbolTables) -> Symbols:
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

    def __call__(self, part: Part, index: NDArray[np.integer], tables: SymbolTables) -> Symbols:
        symbols = self.decoder.read(index, tables)
        self.symbols[part] = symbols
        return symbols


@lru_cache(maxsize=32)  # tables hash by identity
def _codable(tables: SymbolTables) -> tuple[Symbols, Symbols]:
    """Least and greatest symbol that each table can code; no bounds where it has an escape."""
    escape = tables.frequencies[tables.escapes] > 0
    low, high = tables.low.astype(np.int32), tables.high.astype(np.int32)
    low[escape], high[escape] = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    return low, high
