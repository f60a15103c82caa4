"""Tables of delta packets from counts: frequent contexts speak for themselves, rare ones borrow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cdvision.core.deltas import TABLES
from cdvision.entropy.delta_coder import CELL_TABLES, MODE_TABLES
from cdvision.entropy.tables import SymbolTables, tables_from_probabilities

# Values beyond are escapes.
REACH = 15
# A context borrows as much as so many symbols of its own would say.
BORROWED = 16.0
ZERO = 128  # column of symbol 0
PASTS = 4  # what a symbol was before: 0, 1, more, or not asked (intra)
SCALES = 6


def new_counts() -> NDArray[np.uint32]:
    """Return counts (253, 256) of nothing."""
    return np.zeros((TABLES, 256), np.uint32)


def counted_tables(counts: NDArray[np.uint32]) -> SymbolTables:
    """Return the tables of delta packets from counts (253, 256)."""
    cells = MODE_TABLES + CELL_TABLES
    values = _values(counts[cells:])
    parts = [
        tables_from_probabilities(
            _smoothed(counts[:MODE_TABLES, ZERO : ZERO + 3]), 0, escape=False
        ),
        tables_from_probabilities(
            _smoothed(counts[MODE_TABLES:cells, ZERO : ZERO + 2]), 0, escape=False
        ),
        tables_from_probabilities(values, -REACH, escape=True),
    ]
    return SymbolTables(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("low", "high", "frequencies")
        )
    )


def _smoothed(counts: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return probabilities (T, W): counts, and the mean of all tables where there are few."""
    marginal = counts.sum(axis=0) + 1.0
    mixed = counts + BORROWED * marginal / marginal.sum()
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))


def _values(counts: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Return probabilities (216, 31); a context borrows from those of its past and scale."""
    near = counts[:, ZERO - REACH : ZERO + REACH + 1].reshape(PASTS, -1, SCALES, 2 * REACH + 1)
    # The first guess, where nothing was ever counted: halves, symmetric.
    guess = 0.5 ** np.abs(np.arange(-REACH, REACH + 1))
    past = near.sum(axis=(1, 2), keepdims=True) + guess / guess.sum()
    scale = near.sum(axis=1, keepdims=True) + BORROWED * past / past.sum(axis=-1, keepdims=True)
    mixed = near + BORROWED * scale / scale.sum(axis=-1, keepdims=True)
    rows = mixed.reshape(-1, 2 * REACH + 1)
    # What lies beyond, and a little for what was not seen to.
    beyond = counts.sum(axis=1) - near.reshape(len(counts), -1).sum(axis=1) + 0.01
    return np.asarray(rows / (rows.sum(axis=1) + beyond)[:, None])
