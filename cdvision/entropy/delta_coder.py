"""Delta packets of a map: integers added to what sender and receiver have, exact everywhere.

::

    key ─▶ MapState ─ encode(symbols) ─▶ body ─ decode ─▶ the same MapState
              ▲                                              │
              └──────────── next packet's reference ─────────┘

A state is integers alone: the last key's hyper-latent and scale indices, and the symbols as packets
have changed them. Features are computed from a state anew, so that engines' differences cannot
grow. Blocks of 4 x 4 cells are skipped, changed or coded anew; see ``core/delta.c``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cdvision.core.deltas import TABLES, count_delta, decode_delta, encode_delta
from cdvision.core.library import CoreError
from cdvision.entropy.coder import MOST, Coder, Latents, Symbols
from cdvision.entropy.integer_network import joined_bytes
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.entropy.rans import native_tables
from cdvision.entropy.tables import CodingError, SymbolTables
from cdvision.errors import BitstreamError, ModelError

MODE_TABLES, CELL_TABLES = 9, 28  # the first of all tables, and those behind them


@dataclass(frozen=True, eq=False)
class MapState:
    """What sender and receiver of a sequence have of its map; never changed in place."""

    symbols: Symbols  # (C, h, w) int32
    hyper: Symbols  # of the last key
    scales: NDArray[np.uint8]  # (C, h, w): the table that the last key coded each symbol with
    counts: NDArray[np.uint8]  # (h, w): how many symbols of a cell the last packet changed
    quality: int  # counts from 0

    @classmethod
    def of_key(cls, latents: Latents, coder: Coder, quality: int) -> MapState:
        """Return the state behind a key, whose latents are as received.

        Raises:
            ModelError: the coder has no delta packets.
        """
        scales = np.ascontiguousarray(coder.map_scales(latents, quality), np.uint8)
        symbols = np.ascontiguousarray(latents[SYMBOLS], np.int32)
        return cls(symbols, latents[HYPER], scales, np.zeros(symbols.shape[1:], np.uint8), quality)

    @property
    def latents(self) -> Latents:
        """Symbols and hyper-latent by their names."""
        return {SYMBOLS: self.symbols, HYPER: self.hyper}

    def _copied(self) -> MapState:
        return replace(self, symbols=self.symbols.copy(), counts=self.counts.copy())


@dataclass(frozen=True, eq=False)
class DeltaCoder:
    """Changes of a map to bodies and back.

    Raises:
        ModelError: the tables are not those of delta packets.
    """

    tables: SymbolTables

    def __post_init__(self) -> None:
        cells = MODE_TABLES + CELL_TABLES
        if len(self.tables) != TABLES:
            raise ModelError(f"sequence tables: expected {TABLES}, found {len(self.tables)}")
        high = np.repeat([2, 1], [MODE_TABLES, CELL_TABLES])
        exact = not self.tables.low[:cells].any() and (self.tables.high[:cells] == high).all()
        if not exact or self.tables.frequencies[self.tables.escapes[:cells]].any():
            raise ModelError("sequence tables: expected modes 0 to 2, cells 0 to 1, no escapes")

    def encode(self, state: MapState, symbols: Symbols) -> tuple[bytes, MapState]:
        """Return the body of a change, none where nothing changes, and the state behind it.

        Raises:
            CodingError: ``symbols`` are not of the state's shape, or 2^20 or more in magnitude.
        """
        target = _checked(state, symbols)
        after = state._copied()
        try:
            body = encode_delta(
                state.scales, after.symbols, after.counts, target, native_tables(self.tables)
            )
        except CoreError as error:
            raise CodingError(f"delta packet: {error}") from None
        return body, after

    def decode(self, state: MapState, body: bytes) -> MapState:
        """Return the state behind a packet.

        Raises:
            BitstreamError: the bytes are no such change.
        """
        after = state._copied()
        try:
            tables = native_tables(self.tables)
            decode_delta(state.scales, after.symbols, after.counts, body, tables)
        except CoreError as error:
            expected, found = f"a change of {state.symbols.shape}", str(error)
            raise BitstreamError("delta body", expected=expected, found=found) from None
        return after

    def fingerprint(self, coder: Coder) -> bytes:
        """SHA-256 over all that decides what the packets of a sequence mean."""
        parts = [b"CDVS", coder.fingerprint, self.tables.canonical_bytes()]
        return hashlib.sha256(joined_bytes(parts)).digest()

    @cached_property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays of ``sequence.npz``."""
        return self.tables.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> DeltaCoder:
        """Rebuild a coder from ``sequence.npz``, checking everything; raises ModelError."""
        return cls(SymbolTables.from_arrays(arrays))


def count_change(state: MapState, symbols: Symbols, counted: NDArray[np.uint32]) -> MapState:
    """Add what a packet would code to ``counted`` (253, 256); return the state behind it."""
    target, after = _checked(state, symbols), state._copied()
    count_delta(state.scales, after.symbols, after.counts, target, counted)
    return after


def _checked(state: MapState, symbols: Symbols) -> Symbols:
    target = np.ascontiguousarray(symbols, np.int32)
    if target.shape != state.symbols.shape:
        raise CodingError(f"symbols: expected {state.symbols.shape}, found {target.shape}")
    if target.size and max(int(target.max()), -int(target.min())) > MOST // 2:
        raise CodingError(f"symbols: expected magnitudes up to {MOST // 2}")
    return target
