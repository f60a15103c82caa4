"""The one contract of entropy coders: layers of a stream, and latents by name.

::

    latents ─ encode_layer ─▶ body ─ decode_layer ─▶ the same latents
                  ▲                        ▲
                known                    known       (what both sides have before the layer)

A coder says which layers it writes, which latents each holds, and which layers a layer needs. It
codes one layer at a quality, given what is already known: the layers that it needs.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.core_layers import CoreLayer
from cdvision.entropy.integer_network import joined_bytes
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import BitstreamError, ModelError

if TYPE_CHECKING:
    from typing_extensions import Self

Symbols: TypeAlias = NDArray[np.int32]
# Integers by the name that coder, graphs and card give them.
Latents: TypeAlias = dict[str, Symbols]
# Shape of each of a coder's latents, for one size of the network input.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

# Magnitude of the largest symbol that an escape codes.
MOST = 2**20 - 1


@dataclass(frozen=True)
class LayerSpec:
    """One layer: its number in the stream, its latents, and the ids of the layers it needs."""

    id: int
    latents: tuple[str, ...]
    needs: tuple[int, ...] = ()


class EncodedLayer(NamedTuple):
    """A layer's bytes, and its latents as the receiver is going to have them."""

    body: bytes
    received: Latents


class Coder(ABC):
    """Latents of one image to a body a layer, and back; qualities count from 0."""

    layers: ClassVar[tuple[LayerSpec, ...]]  # each behind those that it needs
    compact: ClassVar[bool] = False  # whether streams have the short header
    qualities: int  # how many there are

    @abstractmethod
    def encode_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> EncodedLayer:
        """Encode the layer with the id ``layer``; symbols that no table codes are lost.

        Args:
            layer: id.
            latents: the layer's own, at least.
            quality: counts from 0.
            known: latents of the layers that it needs, as the receiver has them.

        Raises:
            CodingError: an array is not what the layer holds.
        """

    @abstractmethod
    def decode_layer(
        self, layer: int, body: bytes, quality: int, shapes: Shapes, known: Latents
    ) -> Latents:
        """Decode one layer; the arguments are those of ``encode_layer``, ``shapes`` the latents'.

        Raises:
            BitstreamError: the bytes are no such latents.
        """

    @abstractmethod
    def received_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> Latents:
        """Return a layer's latents as the receiver is going to have them; codes nothing."""

    @abstractmethod
    def estimate_layer_bits(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> float:
        """Return the ideal code length of one layer under the integer tables."""

    @abstractmethod
    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the shapes that a card gives latents with the coder's; raises ModelError."""

    @abstractmethod
    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of each of the latents."""

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

    def map_scales(self, latents: Mapping[str, Symbols], quality: int) -> NDArray[np.uint8]:
        """Return the table that a key codes each symbol of its map with, (C, h, w).

        Raises:
            ModelError: the coder has no map whose tables the key's hyper-latent alone chooses.
        """
        raise ModelError(
            f"expected a coder of maps behind a hyper-latent, found {type(self).__name__}: it has "
            "no delta packets"
        )

    def core_layers(self) -> list[CoreLayer]:
        """Return the layers as the native core decodes them by itself.

        Raises:
            ModelError: only Python decodes them.
        """
        raise ModelError(
            "expected layers that the native core decodes by itself (vectors by tables of their "
            f"own, maps behind a hyper-latent), found those of {type(self).__name__}: decode its "
            "streams with Python"
        )

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over ``canonical_parts``."""
        return hashlib.sha256(joined_bytes(self.canonical_parts())).digest()

    @property
    def latent_layers(self) -> dict[str, int]:
        """Id of the layer that each of the latents is in."""
        return {name: layer.id for layer in self.layers for name in layer.latents}

    def encode(self, latents: Mapping[str, Symbols], quality: int) -> dict[int, bytes]:
        """Return the body of each layer whose latents are there, by its id.

        Raises:
            CodingError: there is none, or an array is not what a layer holds.
        """
        bodies: dict[int, bytes] = {}
        known: Latents = {}
        for layer in self._present(latents):
            encoded = self.encode_layer(layer.id, latents, quality, known)
            bodies[layer.id] = encoded.body
            known |= encoded.received
        return bodies

    def decode(
        self,
        bodies: Mapping[int, bytes],
        quality: int,
        shapes: Shapes,
        layers: Collection[int] | None = None,
    ) -> Latents:
        """Return the latents of ``layers`` (all that have arrived where None) and of their needs.

        ``bodies`` are by the layers' ids; ``shapes`` are of all latents.

        Raises:
            BitstreamError: a layer has not arrived, or its bytes are no such latents.
        """
        known: Latents = {}
        for layer in self.layers_in_order(bodies if layers is None else layers):
            body = arrived_body(bodies, layer)
            known |= self.decode_layer(layer, body, quality, shapes, known)
        return known

    def received(self, latents: Mapping[str, Symbols], quality: int) -> Latents:
        """Return what a receiver will decode of latents."""
        known: Latents = {}
        for layer in self._present(latents):
            known |= self.received_layer(layer.id, latents, quality, known)
        return known

    def estimate_bits(self, latents: Mapping[str, Symbols], quality: int) -> dict[int, float]:
        """Return the ideal code length of each layer that is there, by its id."""
        bits: dict[int, float] = {}
        known: Latents = {}
        for layer in self._present(latents):
            bits[layer.id] = self.estimate_layer_bits(layer.id, latents, quality, known)
            known |= self.received_layer(layer.id, latents, quality, known)
        return bits

    def layers_in_order(self, layers: Collection[int]) -> list[int]:
        """Return ids of layers and of all that they need, each behind those that it needs.

        Raises:
            BitstreamError: none of them is a layer of this coder.
        """
        wanted = set(layers)
        # Backwards, because a layer stands behind its needs: one pass finds the needs of needs.
        for layer in reversed(self.layers):
            if layer.id in wanted:
                wanted.update(layer.needs)
        found = [layer.id for layer in self.layers if layer.id in wanted]
        if not found:
            expected = " or ".join(f"layer {layer.id}" for layer in self.layers)
            raise BitstreamError(
                "layer", expected=expected, found=f"{held(layers)}: the stream was cut"
            )
        return found

    def _present(self, latents: Mapping[str, Symbols]) -> list[LayerSpec]:
        """Return the layers whose latents are there; raises CodingError without any."""
        present = [one for one in self.layers if all(name in latents for name in one.latents)]
        if not present:
            expected = " or ".join(", ".join(layer.latents) for layer in self.layers)
            raise CodingError(f"latents: expected {expected}, found {', '.join(latents) or 'none'}")
        return present

    def check_names(self, shapes: Shapes) -> None:
        """Refuse shapes of other latents than the coder's; raises ModelError."""
        if set(shapes) != set(self.latent_layers):
            expected, found = ", ".join(self.latent_layers), ", ".join(shapes) or "none"
            raise ModelError(f"latents: expected {expected}, found {found}")

    def check_quality(self, quality: int) -> None:
        """Refuse a quality that there are no tables for; raises CodingError."""
        if not 0 <= quality < self.qualities:
            raise CodingError(f"quality: expected 0 to {self.qualities - 1}, found {quality}")


def arrived_body(bodies: Mapping[int, bytes], layer: int) -> bytes:
    """Return a layer's body; raises BitstreamError where it has not arrived."""
    if layer not in bodies:
        raise BitstreamError(
            "layer",
            expected=f"layer {layer}, which this question is answered from",
            found=f"{held(bodies)}: the stream was cut, or encoded for other tasks",
        )
    return bodies[layer]


def held(layers: Collection[int]) -> str:
    """Name the layers that have arrived, for a message."""
    return ", ".join(map(str, sorted(layers))) or "none"


def symbol_range(tables: SymbolTables) -> tuple[int, int]:
    """Return the least and the greatest symbol that tables code, escapes included."""
    if tables.has_escapes:
        return -MOST, MOST
    return int(tables.low.min()), int(tables.high.max())
