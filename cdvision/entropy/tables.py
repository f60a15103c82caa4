"""Integer probability tables: what the entropy coder codes with, and what a model's hash covers."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cdvision.entropy.frequencies import (
    PRECISION,
    SYMBOL_LIMIT,
    TOTAL,
    escape_bits,
    fit_range,
    gaussian_bins,
    optimal_frequencies,
)
from cdvision.errors import CdvisionError, ModelError

# Bounds the memory of a package's look-ups: 16 KiB a table.
MAX_TABLES = 4096


class CodingError(CdvisionError, ValueError):
    """Symbols or table indices that cannot be coded with the tables they were given."""


@dataclass(frozen=True, eq=False)
class SymbolTables:
    """T tables of integer frequencies that sum to 2^12 each, over symbol ranges within int8.

    >>> tables = gaussian_tables(log_scale_table(levels=64))
    >>> len(tables), int(tables.low[40]), int(tables.high[40])
    (64, -23, 23)

    A table of one symbol with the frequency 2^12 is *skip*: coding it leaves the coder's state
    unchanged, bit for bit, so it costs nothing at all.

    Raises:
        ModelError: the arrays are not such tables.
    """

    low: NDArray[np.int16]  # first symbol of each table, (T,) int16, at least -127
    high: NDArray[np.int16]  # last symbol of each table, (T,) int16, at most 127
    # Flat uint16; for each table in turn its high - low + 1 symbol frequencies, each at least 1,
    # then that of its escape, 0 where the table has none.
    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        for name, kind in (("low", np.int16), ("high", np.int16), ("frequencies", np.uint16)):
            object.__setattr__(self, name, _frozen(name, getattr(self, name), kind))
        _check_ranges(self.low, self.high, len(self.frequencies))
        _check_frequencies(self.frequencies, self.starts, self.escapes)

    def __len__(self) -> int:
        return len(self.low)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Position of each table's first frequency, (T,)."""
        return self.escapes - (self.high.astype(np.int64) - self.low + 1)

    @cached_property
    def escapes(self) -> NDArray[np.int64]:
        """Position of each table's escape frequency, (T,)."""
        # A table has high - low + 1 symbols and one escape behind them.
        return np.cumsum(self.high.astype(np.int64) - self.low + 2) - 1

    @property
    def has_escapes(self) -> bool:
        """Whether some table can code symbols outside of its range."""
        return bool(self.frequencies[self.escapes].any())

    @cached_property
    def table_symbols(self) -> NDArray[np.int64]:
        """Symbol of each entry of ``frequencies``; -128 for escapes."""
        counts = self.escapes - self.starts + 1
        place = np.arange(len(self.frequencies)) - np.repeat(self.starts, counts)
        symbols = place + np.repeat(self.low.astype(np.int64), counts)
        symbols[self.escapes] = -SYMBOL_LIMIT - 1
        return symbols

    @cached_property
    def costs(self) -> NDArray[np.float64]:
        """Bits of each symbol, (T, 256): column ``symbol + 128``, the escape's in column 0."""
        costs = np.full((len(self), 256), np.inf)
        owner = np.repeat(np.arange(len(self)), self.escapes - self.starts + 1)
        used = self.frequencies > 0
        bits = PRECISION - np.log2(self.frequencies[used])
        costs[owner[used], self.table_symbols[used] + 128] = bits
        return costs

    def canonical_bytes(self) -> bytes:
        """Serialise the tables in the one fixed little-endian layout that fingerprints hash."""
        head = b"CDVT" + struct.pack("<BI", PRECISION, len(self))
        ranges = self.low.astype("<i2").tobytes() + self.high.astype("<i2").tobytes()
        return head + ranges + self.frequencies.astype("<u2").tobytes()

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give the arrays that an npz file stores; ``from_arrays`` reads them back."""
        arrays = {"low": self.low, "high": self.high, "frequencies": self.frequencies}
        return {"precision": np.array([PRECISION], np.uint8), **arrays}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> SymbolTables:
        """Rebuild tables from ``to_arrays``, trusting nothing; raises ModelError."""
        expected = {"precision", "low", "high", "frequencies"}
        if set(arrays) != expected:
            raise ModelError(f"entropy tables: expected {sorted(expected)}, found {sorted(arrays)}")
        precision = _frozen("precision", arrays["precision"], np.uint8)
        if precision.tolist() != [PRECISION]:
            raise ModelError(
                f"entropy tables: expected precision [{PRECISION}], found {precision.tolist()}"
            )
        return cls(low=arrays["low"], high=arrays["high"], frequencies=arrays["frequencies"])

    def estimate_bits(self, symbols: ArrayLike, index: ArrayLike) -> float:
        """Ideal code length of integer ``symbols`` under these tables, escapes included.

        Infinite where a table without an escape cannot hold its symbol. ``index`` (the table of
        each symbol) broadcasts against ``symbols``.
        """
        value, table = np.broadcast_arrays(np.asarray(symbols, np.int64), np.asarray(index))
        inside = (value >= self.low[table]) & (value <= self.high[table])
        # Whatever lies outside pays for the escape here, in column 0, and for its distance below.
        bits = self.costs[table, np.where(inside, value, -SYMBOL_LIMIT - 1) + 128].sum()
        outside, table = value[~inside], table[~inside]
        below = self.low[table] - outside
        distance = np.where(below > 0, below, outside - self.high[table]) - 1
        return float(bits + escape_bits(distance).sum())


def log_scale_table(levels: int = 64, low: float = 0.11, high: float = 64.0) -> NDArray[np.float64]:
    """Return scales that are evenly spaced on a logarithmic axis, (levels,) float64.

    >>> log_scale_table(levels=3, low=0.25, high=4.0).round(6)
    array([0.25, 1.  , 4.  ])
    """
    return np.exp(np.linspace(np.log(low), np.log(high), levels))


def nearest_scale(scales: ArrayLike, table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return which entry of an increasing ``table`` is nearest to each scale, in ratio.

    >>> nearest_scale([0.01, 0.9, 3.0], log_scale_table(levels=3, low=0.25, high=4.0))
    array([0, 1, 2])
    """
    # The geometric mean of two entries is the border at which both ratios are equal.
    return np.searchsorted(np.sqrt(table[1:] * table[:-1]), np.asarray(scales))


def gaussian_tables(scales: ArrayLike) -> SymbolTables:
    """Return tables of zero-mean Gaussians over unit bins; the first one is replaced by *skip*.

    >>> tables = gaussian_tables([0.1, 1.0])
    >>> tables.estimate_bits([0, 0, 0], index=[0, 0, 0])
    0.0

    ``scales`` (T,) are standard deviations in units of the quantisation step, increasing. Every
    integer below 2^20 in magnitude can be coded, with table 0 zeros only. Tables are built once,
    when a package is made: the erfc behind them may differ between machines, the integers in the
    package do not.
    """
    values = np.asarray(scales, np.float64)
    if values.ndim != 1 or not (values > 0).all() or not np.isfinite(values).all():
        raise CodingError(f"scales: expected a vector of positive numbers, found {values!r}")
    skip = (0, 0, np.array([TOTAL, 0]))
    fitted = (_shifted(-SYMBOL_LIMIT, fit_range(*gaussian_bins(float(s)))) for s in values[1:])
    return _assembled([skip, *fitted])


def tables_from_probabilities(
    probabilities: ArrayLike, low: int, *, escape: bool = True
) -> SymbolTables:
    """Return tables of a factorised prior: row c of ``probabilities`` (C, W) gives table c.

    >>> tables = tables_from_probabilities([[0.25, 0.5, 0.25]], low=-1, escape=False)
    >>> tables.frequencies
    array([1024, 2048, 1024,    0], dtype=uint16)

    Rows are of the symbols ``low`` to ``low + W - 1``; what a row lacks to 1 is the mass of
    everything outside. Without ``escape`` the range is exhaustive (an encoder that clips) and
    every row keeps all of its symbols.
    """
    rows = np.asarray(probabilities, np.float64)
    if rows.ndim != 2 or not np.isfinite(rows).all() or (rows < 0).any():
        raise CodingError(f"probabilities: expected (C, W), finite and >= 0, found {rows.shape}")
    sums = rows.sum(axis=1)
    if (sums > 1 + 1e-4).any() or (sums <= 0).any():
        raise CodingError(f"probabilities: rows sum to {sums.min():.6g} .. {sums.max():.6g}, not 1")
    high = low + rows.shape[1] - 1
    if low < -SYMBOL_LIMIT or high > SYMBOL_LIMIT:
        raise CodingError(f"symbols: expected within [-127, 127], found [{low}, {high}]")
    if escape:
        fitted = (fit_range(row, max(0.0, 1.0 - row.sum())) for row in rows)
        return _assembled([_shifted(low, one) for one in fitted])
    exhaustive = (np.append(optimal_frequencies(row / row.sum()), 0) for row in rows)
    return _assembled([(low, high, frequency) for frequency in exhaustive])


# First symbol, last symbol, and the frequencies of both, of all between, and of the escape.
_Fitted = tuple[int, int, NDArray[np.int64]]


def _shifted(origin: int, fitted: _Fitted) -> _Fitted:
    first, last, frequency = fitted
    return origin + first, origin + last, frequency


def _assembled(tables: list[_Fitted]) -> SymbolTables:
    lows, highs, frequencies = zip(*tables, strict=True)
    flat = np.concatenate(frequencies).astype(np.uint16)
    return SymbolTables(np.array(lows, np.int16), np.array(highs, np.int16), flat)


def named_parts(
    parts: Mapping[str, Mapping[str, NDArray[np.generic]]],
) -> dict[str, NDArray[np.generic]]:
    """Lay the arrays of several parts side by side for one npz file, each under ``part/``."""
    return {f"{part}/{name}": v for part, arrays in parts.items() for name, v in arrays.items()}


def part_of(arrays: Mapping[str, NDArray[np.generic]], part: str) -> dict[str, NDArray[np.generic]]:
    """Take one part's arrays out of the result of ``named_parts``."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _frozen(name: str, value: object, kind: type[np.generic]) -> NDArray[Any]:
    """Copy ``value`` as a read-only vector of exactly the type ``kind``."""
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.newbyteorder("=") != np.dtype(kind):
        raise ModelError(
            f"entropy tables: {name}: expected a vector of {np.dtype(kind)}, "
            f"found {array.dtype} of shape {array.shape}"
        )
    copy = array.astype(kind)
    copy.setflags(write=False)
    return copy


def _check_ranges(low: NDArray[np.int16], high: NDArray[np.int16], entries: int) -> None:
    if not 1 <= len(low) <= MAX_TABLES or len(low) != len(high):
        raise ModelError(
            f"entropy tables: expected 1 to {MAX_TABLES} ranges, found {len(low)} low "
            f"and {len(high)} high"
        )
    wrong = (low < -SYMBOL_LIMIT) | (high > SYMBOL_LIMIT) | (low > high)
    if wrong.any():
        table = int(wrong.argmax())
        raise ModelError(
            f"entropy table {table}: expected a range within [-127, 127], "
            f"found [{low[table]}, {high[table]}]"
        )
    needed = int((high.astype(np.int64) - low + 2).sum())
    if entries != needed:
        raise ModelError(f"entropy tables: expected {needed} frequencies, found {entries}")


def _check_frequencies(
    frequencies: NDArray[np.uint16], starts: NDArray[np.int64], escapes: NDArray[np.int64]
) -> None:
    is_symbol = np.ones(len(frequencies), bool)
    is_symbol[escapes] = False
    if (frequencies[is_symbol] == 0).any():
        raise ModelError("entropy tables: expected every symbol's frequency >= 1, found a 0")
    sums = np.add.reduceat(frequencies.astype(np.int64), starts)
    if (sums != TOTAL).any():
        table = int((sums != TOTAL).argmax())
        raise ModelError(
            f"entropy table {table}: expected frequencies that sum to {TOTAL}, found {sums[table]}"
        )
