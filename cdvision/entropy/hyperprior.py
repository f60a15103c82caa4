"""The ``hyperprior`` codec: a hyper-latent under a factorised prior, symbols under its scales.

::

    z ──── factorised tables[quality, channel] ────┐
    └─ integer network ─▶ scale index              ├─ one interleaved rANS body
    symbols ─ Gaussian tables[scale index] ────────┘

Nothing in here is floating-point in a way that could differ between machines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_network import IntegerNetwork, joined_bytes
from cdvision.entropy.tables import SymbolTables
from cdvision.errors import ModelError


class Latents(NamedTuple):
    """The integers inside a layer of a ``hyperprior`` stream."""

    symbols: NDArray[np.int32]  # (C, h, w)
    hyper: NDArray[np.int32]  # (C_z, ceil(h / 4), ceil(w / 4))


@dataclass(frozen=True, eq=False)
class HyperpriorCoder:
    """Latents to bytes and back.

    Args:
        symbol_tables: one table a scale index; index 0 is skipped.
        hyper_tables: one table for each (quality, channel of ``z``), qualities outermost; their
            symbols lie within the network's bound, and none has an escape.
        network: integer network from ``z`` to scale indices.
        qualities: number of qualities.
        channels: channels of the symbols.

    Raises:
        ModelError: the parts do not fit each other.
    """

    symbol_tables: SymbolTables
    hyper_tables: SymbolTables
    network: IntegerNetwork
    qualities: int
    channels: int

    def __post_init__(self) -> None:
        highest = self.network.layers[-1].high
        if self.network.channels != self.channels or highest >= len(self.symbol_tables):
            raise ModelError("entropy model: the integer network does not fit the symbol tables")
        hyper, bound = self.hyper_tables, self.network.bound
        if len(hyper) != self.qualities * self.hyper_channels:
            raise ModelError("entropy model: expected one table a quality and hyper-channel")
        # What these tables can code is what the network will be given: its proof rests on that.
        if hyper.low.min() < -bound or hyper.high.max() > bound or hyper.has_escapes:
            raise ModelError(
                f"entropy model: expected hyper-latents in [-{bound}, {bound}] without escapes"
            )

    @property
    def hyper_channels(self) -> int:
        """Channels of the hyper-latent."""
        return int(self.network.layers[0].weight.shape[1])

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
        index = self._index(latents.hyper, quality, latents.symbols.shape)
        return Latents(np.where(index > 0, latents.symbols, 0).astype(np.int32), latents.hyper)

    def encode(self, latents: Latents, quality: int) -> bytes:
        """Encode latents; ``quality`` counts from 0. Skipped symbols are lost."""
        from cdvision.entropy.rans import Segment, encode_segments

        index = self._index(latents.hyper, quality, latents.symbols.shape)
        symbols = np.where(index > 0, latents.symbols, 0)
        hyper_index = self._hyper_index(latents.hyper.shape, quality)
        return encode_segments(
            [
                Segment(latents.hyper, hyper_index, self.hyper_tables),
                Segment(symbols, index, self.symbol_tables),
            ]
        )

    def decode(self, body: bytes, height: int, width: int, quality: int) -> Latents:
        """Decode the latents of a map of ``height`` x ``width`` cells; raises BitstreamError."""
        from cdvision.entropy.rans import RansDecoder

        decoder = RansDecoder(body)
        hyper_shape = (self.hyper_channels, *self.hyper_size(height, width))
        hyper = decoder.read(self._hyper_index(hyper_shape, quality), self.hyper_tables)
        index = self._index(hyper, quality, (self.channels, height, width))
        symbols = decoder.read(index, self.symbol_tables)
        decoder.finish()
        return Latents(symbols, hyper)

    def estimate_bits(self, latents: Latents, quality: int) -> float:
        """Ideal code length of latents under the integer tables."""
        index = self._index(latents.hyper, quality, latents.symbols.shape)
        hyper_index = self._hyper_index(latents.hyper.shape, quality)
        symbols = np.where(index > 0, latents.symbols, 0)
        bits = self.hyper_tables.estimate_bits(latents.hyper, hyper_index)
        return bits + self.symbol_tables.estimate_bits(symbols, index)

    @property
    def hyper_step(self) -> int:
        """Cells of the latents' map across one cell of the hyper-latent's."""
        return self.network.upsample

    def hyper_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the hyper-latent of a map of latents."""
        return -(-height // self.hyper_step), -(-width // self.hyper_step)

    def _index(
        self, hyper: NDArray[np.int32], quality: int, shape: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        return self.network(hyper, quality, (shape[1], shape[2]))

    def _hyper_index(self, shape: tuple[int, ...], quality: int) -> NDArray[np.uint16]:
        first = quality * self.hyper_channels
        channel = np.arange(first, first + self.hyper_channels, dtype=np.uint16)
        return np.broadcast_to(channel[:, None, None], shape)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        sizes = np.array([self.qualities, self.channels], np.int32)
        parts = {
            "symbols": self.symbol_tables.to_arrays(),
            "hyper": self.hyper_tables.to_arrays(),
            "network": self.network.to_arrays(),
        }
        named = {f"{part}/{k}": v for part, arrays in parts.items() for k, v in arrays.items()}
        return {"sizes": sizes, **named}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> HyperpriorCoder:
        """Rebuild a coder from ``tables.npz``, checking everything; raises ModelError."""

        def part(name: str) -> dict[str, NDArray[np.generic]]:
            prefix = f"{name}/"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        sizes = arrays.get("sizes")
        if sizes is None or sizes.shape != (2,) or sizes.dtype != np.int32:
            raise ModelError("tables.npz: expected an int32 array 'sizes' of shape (2,)")
        return cls(
            symbol_tables=SymbolTables.from_arrays(part("symbols")),
            hyper_tables=SymbolTables.from_arrays(part("hyper")),
            network=IntegerNetwork.from_arrays(part("network")),
            qualities=sizes.tolist()[0],
            channels=sizes.tolist()[1],
        )
