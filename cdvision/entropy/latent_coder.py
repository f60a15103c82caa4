"""What the codecs with a hyper-latent share: tables, fingerprint, arrays, and the hyper-latent.

A codec adds the network that chooses the symbols' tables, and the order in which it is asked.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_network import joined_bytes
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import ModelError


class Latents(NamedTuple):
    """The integers inside a layer of a stream."""

    symbols: NDArray[np.int32]  # (C, h, w)
    hyper: NDArray[np.int32]  # (C_z, ceil(h / 4), ceil(w / 4))


class IndexNetwork(Protocol):
    """What a coder asks of the network that chooses tables."""

    @property
    def bound(self) -> int:
        """Its inputs lie in [-bound, bound]."""

    @property
    def inputs(self) -> int:
        """Channels of the hyper-latent."""

    @property
    def channels(self) -> int:
        """Channels of the indices."""

    @property
    def highest(self) -> int:
        """Greatest index that can come out."""

    @property
    def upsample(self) -> int:
        """Height of the indices' map over height of the hyper-latent's."""

    def canonical_bytes(self) -> bytes:
        """Serialise in the layout that fingerprints hash."""

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays that an npz file stores."""


Network = TypeVar("Network", bound=IndexNetwork)
Pass = tuple[NDArray[np.int32], NDArray[np.uint8]]
"""Symbols that are coded together, the skipped ones zero, and the table of each."""


@dataclass(frozen=True, eq=False)
class LatentCoder(ABC, Generic[Network]):
    """Latents to bytes and back.

    Args:
        symbol_tables: one table a scale index; index 0 is skipped.
        hyper_tables: one table for each (quality, channel of ``z``), qualities outermost; their
            symbols lie within the network's bound, and none has an escape.
        network: integer network that gives the scale indices.
        qualities: number of qualities.
        channels: channels of the symbols.

    Raises:
        ModelError: the parts do not fit each other.
    """

    symbol_tables: SymbolTables
    hyper_tables: SymbolTables
    network: Network
    qualities: int
    channels: int

    def __post_init__(self) -> None:
        if self.network.channels != self.channels or self.network.highest >= len(
            self.symbol_tables
        ):
            raise ModelError("entropy model: the integer network does not fit the symbol tables")
        hyper, bound = self.hyper_tables, self.network.bound
        if len(hyper) != self.qualities * self.hyper_channels:
            raise ModelError("entropy model: expected one table a quality and hyper-channel")
        # What these tables can code is what the network will be given: its proof rests on that.
        if hyper.low.min() < -bound or hyper.high.max() > bound or hyper.has_escapes:
            raise ModelError(
                f"entropy model: expected hyper-latents in [-{bound}, {bound}] without escapes"
            )

    @cached_property
    def hyper_channels(self) -> int:
        """Channels of the hyper-latent."""
        return self.network.inputs

    @cached_property
    def hyper_step(self) -> int:
        """Cells of the latents' map across one cell of the hyper-latent's."""
        return self.network.upsample

    def hyper_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the hyper-latent of a map of latents."""
        return -(-height // self.hyper_step), -(-width // self.hyper_step)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything that decides which bits mean which latents."""
        parts = [
            self.symbol_tables.canonical_bytes(),
            self.hyper_tables.canonical_bytes(),
            self.network.canonical_bytes(),
        ]
        return hashlib.sha256(joined_bytes(parts)).digest()

    def keep_coded(self, latents: Latents, quality: int) -> Latents:
        """Zero the symbols that will be skipped: what the receiver is going to see."""
        symbols = [symbols for symbols, _ in self._passes(latents, quality)]
        kept = self._joined(symbols, latents.symbols.shape)
        return Latents(kept.astype(np.int32, copy=False), latents.hyper)

    def encode(self, latents: Latents, quality: int) -> bytes:
        """Encode latents; ``quality`` counts from 0. Skipped symbols are lost."""
        from cdvision.entropy.rans import Segment, encode_segments

        hyper_index = self._hyper_index(latents.hyper.shape, quality)
        passes = self._passes(latents, quality)
        return encode_segments(
            [
                Segment(latents.hyper, hyper_index, self.hyper_tables),
                *(Segment(symbols, index, self.symbol_tables) for symbols, index in passes),
            ]
        )

    @abstractmethod
    def decode(self, body: bytes, height: int, width: int, quality: int) -> Latents:
        """Decode the latents of a map of ``height`` x ``width`` cells; raises BitstreamError."""

    def estimate_bits(self, latents: Latents, quality: int) -> float:
        """Ideal code length of latents under the integer tables."""
        hyper_index = self._hyper_index(latents.hyper.shape, quality)
        return self.hyper_tables.estimate_bits(latents.hyper, hyper_index) + sum(
            self.symbol_tables.estimate_bits(symbols, index)
            for symbols, index in self._passes(latents, quality)
        )

    @abstractmethod
    def _passes(self, latents: Latents, quality: int) -> list[Pass]:
        """Return what is coded after the hyper-latent, in the order of coding."""

    @abstractmethod
    def _joined(
        self, passes: Sequence[NDArray[np.int32]], shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """Put the symbols of all passes back into a map (C, h, w)."""

    def _hyper_index(self, shape: tuple[int, ...], quality: int) -> NDArray[np.uint16]:
        if not 0 <= quality < self.qualities:
            raise CodingError(f"quality: expected 0 to {self.qualities - 1}, found {quality}")
        first = quality * self.hyper_channels
        return _channel_index(first, (self.hyper_channels, *shape[1:]))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        parts = {
            "symbols": self.symbol_tables.to_arrays(),
            "hyper": self.hyper_tables.to_arrays(),
            "network": self.network.to_arrays(),
        }
        return {"sizes": np.array([self.qualities, self.channels], np.int32), **named_parts(parts)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """Rebuild a coder from ``tables.npz``, checking everything; raises ModelError."""
        sizes = arrays.get("sizes")
        if sizes is None or sizes.shape != (2,) or sizes.dtype != np.int32:
            raise ModelError("tables.npz: expected an int32 array 'sizes' of shape (2,)")
        return cls(
            symbol_tables=SymbolTables.from_arrays(part_of(arrays, "symbols")),
            hyper_tables=SymbolTables.from_arrays(part_of(arrays, "hyper")),
            network=cls._network_from(part_of(arrays, "network")),
            qualities=sizes.tolist()[0],
            channels=sizes.tolist()[1],
        )

    @staticmethod
    @abstractmethod
    def _network_from(arrays: Mapping[str, NDArray[np.generic]]) -> Network:
        """Rebuild the network, proof included; raises ModelError."""


@lru_cache(maxsize=64)  # a camera's streams have one size
def _channel_index(first: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Index (C, h, w) of tables ``first`` and following, one a channel."""
    channel = np.arange(first, first + shape[0], dtype=np.uint16)
    index = np.repeat(channel, shape[1] * shape[2]).reshape(shape)
    index.flags.writeable = False
    return index


def named_parts(
    parts: Mapping[str, Mapping[str, NDArray[np.generic]]],
) -> dict[str, NDArray[np.generic]]:
    """Lay the arrays of several parts side by side, each under ``part/``."""
    return {f"{part}/{name}": v for part, arrays in parts.items() for name, v in arrays.items()}


def part_of(arrays: Mapping[str, NDArray[np.generic]], part: str) -> dict[str, NDArray[np.generic]]:
    """Take one part's arrays out of what ``named_parts`` gave."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
