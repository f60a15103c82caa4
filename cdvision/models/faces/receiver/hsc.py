"""The ``hsc`` codec: a base layer of core semantics, and a detail layer whose tables it chooses.

::

    layer 0   base (C_b, s, s) ──── factorised tables[quality, channel] ─────────▶ body 0
              └─ side network ─▶ side information (S, h, h)
    layer 1   side information ─────────────────── slice network 0 ─▶ index ─▶ slice 0 ┐
              side information, slice 0 ────────── slice network 1 ─▶ index ─▶ slice 1 ├▶ body 1
              side information, slices 0 and 1 ─── slice network 2 ─▶ index ─▶ slice 2 ┘ ...

Networks see integers and give integers, so the same bits mean the same latents on every machine.
They choose scales only: means may float, and are the engine's business.

Source: HSC, "Hierarchical Semantic Compression for Consistent Image Semantic Restoration"
(arXiv 2502.16799, IEEE TIP 2025), which has no hyper-latent: the decoded base plays that role.
There the slice networks are fed decoded floats; in integers they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Latents, LayerSpec, Symbols, symbol_range
from cdvision.entropy.context_network import MAGNITUDES, symbol_magnitudes
from cdvision.entropy.integer_network import IntegerNetwork, joined_bytes
from cdvision.entropy.layered_coder import Code, LayeredCoder
from cdvision.entropy.tables import SymbolTables, named_parts, part_of
from cdvision.errors import ModelError

BASE, DETAIL = "base", "detail"
MAX_SIDE = 64
MAX_SLICES = 32


@dataclass(frozen=True, eq=False)
class HscCoder(LayeredCoder):
    """Base and detail latents of one face to two bodies, and back.

    Args:
        base_tables: one table for each (quality, channel of the base), qualities outermost; without
            escapes, and within the side network's bound.
        symbol_tables: one table a scale index; index 0 is skipped.
        side: base symbols to side information, 0 to 127.
        slices: a slice's scale indices from the side information and the magnitudes of the symbols
            of all slices before it.
        qualities: number of qualities.
        base_side: height and width of the base's map.

    Raises:
        ModelError: the parts do not fit each other.
    """

    layers: ClassVar[tuple[LayerSpec, ...]] = (
        LayerSpec(0, (BASE,)),
        LayerSpec(1, (DETAIL,), needs=(0,)),
    )

    base_tables: SymbolTables
    symbol_tables: SymbolTables
    side: IntegerNetwork
    slices: tuple[IntegerNetwork, ...]
    qualities: int
    base_side: int

    def __post_init__(self) -> None:
        if not (1 <= self.base_side <= MAX_SIDE and self.detail_side <= MAX_SIDE):
            raise ModelError(
                f"hsc: expected maps of 1 to {MAX_SIDE} cells a side, found "
                f"{self.base_side} and {self.detail_side}"
            )
        if not 1 <= len(self.slices) <= MAX_SLICES:
            raise ModelError(f"hsc: expected 1 to {MAX_SLICES} slices, found {len(self.slices)}")
        self._check_base()
        self._check_slices()

    def _check_base(self) -> None:
        tables, bound = self.base_tables, self.side.bound
        if self.qualities < 1 or len(tables) != self.qualities * self.side.inputs:
            raise ModelError(
                f"hsc: expected {self.qualities} x {self.side.inputs} base tables, "
                f"found {len(tables)}"
            )
        # What these tables can code is what the side network will be given: its proof rests on it.
        if tables.low.min() < -bound or tables.high.max() > bound or tables.has_escapes:
            raise ModelError(f"hsc: expected a base in [-{bound}, {bound}] without escapes")

    def _check_slices(self) -> None:
        # Slices see side information and magnitudes: their proofs must hold for the larger of both.
        highest = max(self.side.highest, int(MAGNITUDES.max()))
        inputs = self.side.channels
        for position, network in enumerate(self.slices):
            found = (network.inputs, network.upsample)
            if found != (inputs, 1):
                raise ModelError(
                    f"hsc slice {position}: expected {inputs} input channels and no upsampling, "
                    f"found {found[0]} and x{found[1]}"
                )
            if highest > network.bound or network.highest >= len(self.symbol_tables):
                raise ModelError(
                    f"hsc slice {position}: expected a bound of at least {highest} and indices "
                    f"below {len(self.symbol_tables)}, found {network.bound} and {network.highest}"
                )
            inputs += network.channels

    @property
    def detail_side(self) -> int:
        """Height and width of the detail's map."""
        return self.base_side * self.side.upsample

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes (channels, side, side) of base and detail."""
        channels = sum(network.channels for network in self.slices)
        return {
            BASE: (self.side.inputs, self.base_side, self.base_side),
            DETAIL: (channels, self.detail_side, self.detail_side),
        }

    def ranges(self) -> dict[str, tuple[int, int]]:
        """Return the least and the greatest symbol of base and detail."""
        return {BASE: symbol_range(self.base_tables), DETAIL: symbol_range(self.symbol_tables)}

    def _code_layer(self, layer: int, known: Latents, quality: int, code: Code) -> None:
        if layer == 0:
            first, shape = quality * self.side.inputs, self.shapes[BASE]
            channel = np.arange(first, first + shape[0], dtype=np.uint16)
            code(..., np.broadcast_to(channel[:, None, None], shape), self.base_tables)
        else:
            self._code_detail(known[BASE], quality, code)

    def _code_detail(self, base: Symbols, quality: int, code: Code) -> None:
        # One array for all slices: a slice's network reads what stands before its own symbols.
        inputs = self.slices[-1].inputs
        seen = np.zeros((inputs, self.detail_side, self.detail_side), np.uint8)
        offset = self.side.channels
        seen[:offset] = self.side(base, quality)
        start = 0
        for network in self.slices:
            stop = start + network.channels
            index = network(seen[: offset + start], quality)
            symbols = code(slice(start, stop), index, self.symbol_tables)
            if network is not self.slices[-1]:
                seen[offset + start : offset + stop] = symbol_magnitudes(symbols)
            start = stop

    def canonical_parts(self) -> list[bytes]:
        """Serialise tables, networks and sizes."""
        return [
            b"CDVH",
            np.array([self.qualities, self.base_side], "<i4").tobytes(),
            MAGNITUDES.tobytes(),
            self.base_tables.canonical_bytes(),
            self.symbol_tables.canonical_bytes(),
            self.side.canonical_bytes(),
            joined_bytes([network.canonical_bytes() for network in self.slices]),
        ]

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays of ``tables.npz``."""
        parts = {
            "base": self.base_tables.to_arrays(),
            "symbols": self.symbol_tables.to_arrays(),
            "side": self.side.to_arrays(),
        }
        parts |= {f"slice{k}": network.to_arrays() for k, network in enumerate(self.slices)}
        sizes = np.array([self.qualities, self.base_side, len(self.slices)], np.int32)
        return {"sizes": sizes, **named_parts(parts)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> HscCoder:
        """Rebuild a coder from ``tables.npz``, proofs included; raises ModelError."""
        sizes = arrays.get("sizes")
        if sizes is None or sizes.shape != (3,) or sizes.dtype != np.int32:
            raise ModelError("tables.npz: expected an int32 array 'sizes' of shape (3,)")
        qualities, base_side, count = sizes.tolist()
        if not 1 <= count <= MAX_SLICES:
            raise ModelError(f"hsc: expected 1 to {MAX_SLICES} slices, found {count}")
        names = ["base", "symbols", "side", *(f"slice{k}" for k in range(count))]
        parts = {name: part_of(arrays, name) for name in names}
        strange = set(arrays) - set(named_parts(parts)) - {"sizes"}
        if strange:
            raise ModelError(f"hsc: unknown arrays {sorted(strange)}")
        return cls(
            base_tables=SymbolTables.from_arrays(parts["base"]),
            symbol_tables=SymbolTables.from_arrays(parts["symbols"]),
            side=IntegerNetwork.from_arrays(parts["side"]),
            slices=tuple(IntegerNetwork.from_arrays(parts[f"slice{k}"]) for k in range(count)),
            qualities=qualities,
            base_side=base_side,
        )
