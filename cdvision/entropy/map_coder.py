"""What the coders of maps share: tables, the hyper-latent, and one layer of symbols behind it.

A coder adds the network that chooses the symbols' tables, and the order in which it is asked.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

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
from cdvision.entropy.context_network import ContextNetwork
from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.tables import SymbolTables, named_parts, part_of
from cdvision.errors import ModelError

if TYPE_CHECKING:
    from typing_extensions import Self

SYMBOLS, HYPER = "symbols", "hyper"


Network = TypeVar("Network", IntegerNetwork, ContextNetwork)
# Symbols that are coded together, the skipped ones zero, and the table of each.
Pass = tuple[Symbols, NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class MapCoder(Coder, Generic[Network]):
    """A map to one layer and back: ``symbols`` (C, h, w) behind ``hyper`` (C_z, h', w').

    h' and w' are h and w over ``network.upsample``, rounded up.

    Raises:
        ModelError: the parts do not fit each other.
    """

    layers: ClassVar[tuple[LayerSpec, ...]] = (LayerSpec(0, (SYMBOLS, HYPER)),)

    symbol_tables: SymbolTables  # one table a scale index; index 0 is skipped
    # One table for each (quality, channel of ``hyper``), qualities outermost; their symbols lie
    # within the network's bound, and none has an escape.
    hyper_tables: SymbolTables
    network: Network  # integer network that gives the scale indices
    qualities: int  # number of qualities
    channels: int  # channels of the symbols

    def __post_init__(self) -> None:
        fits = self.network.channels == self.channels
        if not fits or self.network.highest >= len(self.symbol_tables):
            raise ModelError("entropy model: the integer network does not fit the symbol tables")
        hyper, bound = self.hyper_tables, self.network.bound
        if len(hyper) != self.qualities * self.hyper_channels:
            raise ModelError("entropy model: expected one table a quality and hyper-channel")
        # The network is given what these tables can code: its proof of exact sums rests on that.
        if hyper.low.min() < -bound or hyper.high.max() > bound or hyper.has_escapes:
            raise ModelError(
                f"entropy model: expected hyper-latents in [-{bound}, {bound}] without escapes"
            )

    @cached_property
    def hyper_channels(self) -> int:
        """Channels of the hyper-latent."""
        return self.network.inputs

    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the shapes that a card gives latents with the coder's; raises ModelError."""
        self.check_names(shapes)
        if len(shapes[SYMBOLS]) != 3:
            raise ModelError(f"{SYMBOLS}: expected a map, found shape {shapes[SYMBOLS]}")
        _, height, width = shapes[SYMBOLS]
        for name, expected in (
            (SYMBOLS, (self.channels, height, width)),
            (HYPER, self._hyper_shape(height, width)),
        ):
            if shapes[name] != expected:
                raise ModelError(f"{name}: expected shape {expected}, found {shapes[name]}")

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of each of the latents."""
        return {SYMBOLS: symbol_range(self.symbol_tables), HYPER: symbol_range(self.hyper_tables)}

    def encode_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> EncodedLayer:
        """Encode the map; see ``Coder.encode_layer``. Skipped symbols are lost."""
        from cdvision.entropy.rans import Segment, encode_segments

        hyper, passes = latents[HYPER], self._passes(latents[SYMBOLS], latents[HYPER], quality)
        segments = [Segment(hyper, self._hyper_index(hyper.shape, quality), self.hyper_tables)]
        segments += [Segment(symbols, index, self.symbol_tables) for symbols, index in passes]
        return EncodedLayer(encode_segments(segments), self._received(passes, latents))

    def decode_layer(
        self, layer: int, body: bytes, quality: int, shapes: Shapes, known: Latents
    ) -> Latents:
        """Decode the map; see ``Coder.decode_layer``."""
        _, height, width = shapes[SYMBOLS]
        symbols, hyper = self._decode(body, height, width, quality)
        return {SYMBOLS: symbols, HYPER: hyper}

    def received_layer(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> Latents:
        """Zero the symbols that will be skipped: what the receiver is going to have."""
        return self._received(self._passes(latents[SYMBOLS], latents[HYPER], quality), latents)

    def estimate_layer_bits(
        self, layer: int, latents: Mapping[str, Symbols], quality: int, known: Latents
    ) -> float:
        """Return the ideal code length of the map under the integer tables."""
        hyper = latents[HYPER]
        index = self._hyper_index(hyper.shape, quality)
        return self.hyper_tables.estimate_bits(hyper, index) + sum(
            self.symbol_tables.estimate_bits(symbols, index)
            for symbols, index in self._passes(latents[SYMBOLS], hyper, quality)
        )

    @abstractmethod
    def _decode(
        self, body: bytes, height: int, width: int, quality: int
    ) -> tuple[Symbols, Symbols]:
        """Return symbols and hyper-latent of ``height`` x ``width`` cells."""

    @abstractmethod
    def _passes(self, symbols: Symbols, hyper: Symbols, quality: int) -> list[Pass]:
        """Return what is coded after the hyper-latent, in the order of coding."""

    @abstractmethod
    def _joined(self, passes: Sequence[Symbols], shape: tuple[int, ...]) -> Symbols:
        """Put the symbols of all passes back into a map (C, h, w)."""

    def _received(self, passes: Sequence[Pass], latents: Mapping[str, Symbols]) -> Latents:
        symbols = self._joined([symbols for symbols, _ in passes], latents[SYMBOLS].shape)
        return {SYMBOLS: symbols.astype(np.int32, copy=False), HYPER: latents[HYPER]}

    def _hyper_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape of the hyper-latent of a map of ``height`` x ``width`` cells."""
        step = self.network.upsample
        # -(-a // b) is a / b rounded up.
        return self.hyper_channels, -(-height // step), -(-width // step)

    def _hyper_index(self, shape: tuple[int, ...], quality: int) -> NDArray[np.uint16]:
        self.check_quality(quality)
        first = quality * self.hyper_channels
        return _channel_index(first, (self.hyper_channels, *shape[1:]))

    def canonical_parts(self) -> list[bytes]:
        """Serialise both kinds of tables and the network."""
        parts = self.symbol_tables, self.hyper_tables, self.network
        return [part.canonical_bytes() for part in parts]

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


# Cached, because a camera's streams have one size.
@lru_cache(maxsize=64)
def _channel_index(first: int, shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Index (C, h, w) of tables ``first`` and following, one a channel."""
    channel = np.arange(first, first + shape[0], dtype=np.uint16)
    index = np.repeat(channel, shape[1] * shape[2]).reshape(shape)
    index.flags.writeable = False
    return index
