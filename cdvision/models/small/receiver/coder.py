"""The codec of a map with a global descriptor: two layers, each decodable without the other.

::

    layer 0   descriptor (D,) ── factorised tables[quality, element] ──▶ body 0
    layer 1   symbols (C, h, w), hyper (C_z, ...) ── ``hyperprior`` ───▶ body 1

What a picture shows costs some dozen bytes, what is where in it costs kilobytes: whoever only
classifies reads, and may be sent, the first layer alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import (
    Coder,
    EncodedLayer,
    Latents,
    LayerSpec,
    Shapes,
    Symbols,
    symbol_range,
)
from cdvision.entropy.core_layers import CoreLayer, CoreVector
from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.layered_coder import Code, LayeredCoder
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.entropy.tables import SymbolTables, named_parts, part_of
from cdvision.errors import ModelError

DESCRIPTOR = "descriptor"
DESCRIPTOR_LAYER, MAP_LAYER = 0, 1
MAX_ELEMENTS = 4096


@dataclass(frozen=True, eq=False)
class DescriptorCoder(LayeredCoder):
    """A vector of integers to a body, by one table a quality and element, qualities outermost."""

    layers: ClassVar[tuple[LayerSpec, ...]] = (LayerSpec(DESCRIPTOR_LAYER, (DESCRIPTOR,)),)

    tables: SymbolTables
    qualities: int

    def __post_init__(self) -> None:
        count = len(self.tables)
        if self.qualities < 1 or count % self.qualities or not 1 <= self.elements <= MAX_ELEMENTS:
            raise ModelError(
                f"descriptor: expected {self.qualities} x 1 to {MAX_ELEMENTS} tables, found {count}"
            )
        if self.tables.has_escapes:
            raise ModelError("descriptor: expected tables without escapes")

    @property
    def elements(self) -> int:
        """Length of the vector."""
        return len(self.tables) // self.qualities

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The one shape, (D,)."""
        return {DESCRIPTOR: (self.elements,)}

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of the vector."""
        return {DESCRIPTOR: symbol_range(self.tables)}

    def core_layers(self) -> list[CoreLayer]:
        """Return the one layer, as the native core decodes it."""
        return [CoreVector(DESCRIPTOR_LAYER, self.qualities, self.elements, self.tables)]

    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        # Tables stand in one row: those of a quality begin behind all of the qualities before.
        first = quality * self.elements
        code(..., np.arange(first, first + self.elements, dtype=np.uint16), self.tables)

    def canonical_parts(self) -> list[bytes]:
        """Serialise the tables and the number of qualities."""
        qualities = np.array([self.qualities], "<i4").tobytes()
        return [b"CDVD", qualities, self.tables.canonical_bytes()]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        sizes = np.array([self.qualities], np.int32)
        return {"sizes": sizes, **named_parts({"tables": self.tables.to_arrays()})}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> DescriptorCoder:
        """Rebuild a coder; raises ModelError."""
        sizes = arrays.get("sizes")
        if sizes is None or sizes.shape != (1,) or sizes.dtype != np.int32:
            raise ModelError("descriptor: expected an int32 array 'sizes' of shape (1,)")
        return cls(SymbolTables.from_arrays(part_of(arrays, "tables")), int(sizes[0]))


@dataclass(frozen=True, eq=False)
class DescribedMapCoder(Coder):
    """Both layers' coders; raises ModelError where their numbers of qualities differ."""

    layers: ClassVar[tuple[LayerSpec, ...]] = (
        *DescriptorCoder.layers,
        LayerSpec(MAP_LAYER, (SYMBOLS, HYPER)),
    )

    descriptor: DescriptorCoder
    map: HyperpriorCoder

    def __post_init__(self) -> None:
        if self.descriptor.qualities != self.map.qualities:
            raise ModelError(
                f"described map: expected one number of qualities, found "
                f"{self.descriptor.qualities} and {self.map.qualities}"
            )

    @property
    def qualities(self) -> int:  # type: ignore[override]  # both coders'
        """Number of qualities."""
        return self.map.qualities

    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the shapes that a card gives latents with the coders'; raises ModelError."""
        self.check_names(shapes)
        for part in (self.descriptor, self.map):
            part.check_shapes({k: v for k, v in shapes.items() if k in part.latent_layers})

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of each of the latents."""
        return {**self.descriptor.ranges(), **self.map.ranges()}

    def encode_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> EncodedLayer:
        """Encode one of the two; see ``Coder.encode_layer``."""
        part = self._part(layer)
        return part.encode_layer(part.layers[0].id, latents, quality, known)

    def decode_layer(
        self, layer: int, body: bytes, quality: int, shapes: Shapes, known: Latents
    ) -> Latents:
        """Decode one of the two; see ``Coder.decode_layer``."""
        part = self._part(layer)
        return part.decode_layer(part.layers[0].id, body, quality, shapes, known)

    def received_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> Latents:
        """Return what the receiver is going to have of one of the two."""
        part = self._part(layer)
        return part.received_layer(part.layers[0].id, latents, quality, known)

    def estimate_layer_bits(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> float:
        """Return the ideal code length of one of the two under the integer tables."""
        part = self._part(layer)
        return part.estimate_layer_bits(part.layers[0].id, latents, quality, known)

    def map_scales(self, latents: Mapping[str, Symbols], quality: int) -> NDArray[np.uint8]:
        """Return the table of each of the map's symbols."""
        return self.map.map_scales(latents, quality)

    def core_layers(self) -> list[CoreLayer]:
        """Return both layers, as the native core decodes them."""
        maps = [one._replace(id=MAP_LAYER) for one in self.map.core_layers()]
        return [*self.descriptor.core_layers(), *maps]

    def _part(self, layer: int) -> Coder:
        return self.map if layer == MAP_LAYER else self.descriptor

    def canonical_parts(self) -> list[bytes]:
        """Serialise both coders' fingerprints."""
        return [b"CDVM", self.descriptor.fingerprint, self.map.fingerprint]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        parts = {"descriptor": self.descriptor.to_arrays(), "map": self.map.to_arrays()}
        return named_parts(parts)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> DescribedMapCoder:
        """Rebuild a coder from ``tables.npz``, proofs included; raises ModelError."""
        return cls(
            descriptor=DescriptorCoder.from_arrays(part_of(arrays, "descriptor")),
            map=HyperpriorCoder.from_arrays(part_of(arrays, "map")),
        )
