"""The codec of a map with a global descriptor: two layers, each decodable without the other.

::

    layer 0   descriptor (D,) ── factorised tables[quality, element] ──▶ body 0
    layer 1   symbols (C, h, w), hyper (C_z, ...) ── ``hyperprior`` ───▶ body 1

What a picture shows costs some dozen bytes, what is where in it costs kilobytes: whoever only
classifies reads, and may be sent, the first layer alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.integer_network import joined_bytes
from cdvision.entropy.latent_coder import Latents, named_parts, part_of
from cdvision.entropy.layered_coder import Code, LayeredCoder, Symbols
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import ModelError

DESCRIPTOR_LAYER, MAP_LAYER = 0, 1
MAX_ELEMENTS = 4096


class DescribedLatents(NamedTuple):
    """What both layers hold; None where a layer is not there."""

    descriptor: NDArray[np.int32] | None  # (D,)
    symbols: NDArray[np.int32] | None  # (C, h, w)
    hyper: NDArray[np.int32] | None  # (C_z, ceil(h / step), ceil(w / step))

    def __or__(self, other: DescribedLatents) -> DescribedLatents:
        """Join what was decoded apart."""
        pairs = zip(self, other, strict=True)
        return DescribedLatents(*(b if a is None else a for a, b in pairs))

    @property
    def map(self) -> Latents | None:
        """The layer of the map."""
        if self.symbols is None or self.hyper is None:
            return None
        return Latents(self.symbols, self.hyper)


@dataclass(frozen=True, eq=False)
class DescriptorCoder(LayeredCoder):
    """A vector of integers to a body, by one table a quality and element.

    Args:
        tables: qualities outermost, without escapes.
        qualities: number of qualities.

    Raises:
        ModelError: the tables do not fit the qualities.
    """

    layer_ids: ClassVar[tuple[int, ...]] = (DESCRIPTOR_LAYER,)

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
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The one shape, (D,)."""
        return ((self.elements,),)

    def _code_layer(self, layer: int, earlier: Sequence[Symbols], quality: int, code: Code) -> None:
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
class DescribedMapCoder:
    """Both layers' coders; qualities count from 0.

    Args:
        descriptor: of layer 0.
        map: of layer 1.

    Raises:
        ModelError: their numbers of qualities differ.
    """

    descriptor: DescriptorCoder
    map: HyperpriorCoder

    def __post_init__(self) -> None:
        if self.descriptor.qualities != self.map.qualities:
            raise ModelError(
                f"described map: expected one number of qualities, found "
                f"{self.descriptor.qualities} and {self.map.qualities}"
            )

    @property
    def qualities(self) -> int:
        """Number of qualities."""
        return self.map.qualities

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over both coders' fingerprints."""
        parts = [b"CDVM", self.descriptor.fingerprint, self.map.fingerprint]
        return hashlib.sha256(joined_bytes(parts)).digest()

    def encode(self, latents: DescribedLatents, quality: int) -> dict[int, bytes]:
        """Return the body of each layer that there is, by its id.

        Raises:
            CodingError: there is none, or a shape is not that of its layer.
        """
        bodies: dict[int, bytes] = {}
        if latents.descriptor is not None:
            (bodies[DESCRIPTOR_LAYER],) = self.descriptor.encode([latents.descriptor], quality)
        if latents.map is not None:
            bodies[MAP_LAYER] = self.map.encode(latents.map, quality)
        if not bodies:
            raise CodingError("latents: expected a descriptor, a map or both, found neither")
        return bodies

    def decode_descriptor(self, body: bytes, quality: int) -> NDArray[np.int32]:
        """Decode layer 0: (D,); raises BitstreamError."""
        return self.descriptor.decode([body], quality)[0]

    def decode_map(self, body: bytes, height: int, width: int, quality: int) -> Latents:
        """Decode layer 1, of ``height`` x ``width`` cells; raises BitstreamError."""
        return self.map.decode(body, height, width, quality)

    def keep_coded(self, latents: DescribedLatents, quality: int) -> DescribedLatents:
        """Return what the receiver is going to see of ``latents``."""
        descriptor, found = latents.descriptor, latents.map
        if descriptor is not None:
            (descriptor,) = self.descriptor.keep_coded([descriptor], quality)
        if found is not None:
            found = self.map.keep_coded(found, quality)
        return DescribedLatents(descriptor, *(found or (None, None)))

    def estimate_bits(self, latents: DescribedLatents, quality: int) -> list[float]:
        """Ideal code length of each layer that there is, under the integer tables."""
        bits: list[float] = []
        if latents.descriptor is not None:
            bits += self.descriptor.estimate_bits([latents.descriptor], quality)
        if latents.map is not None:
            bits.append(self.map.estimate_bits(latents.map, quality))
        return bits

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
