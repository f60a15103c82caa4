"""From a trained `hsc` codec to the integer tables and networks of its entropy coder."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cdvision.building.map_tables import symbol_tables
from cdvision.entropy.frequencies import TOTAL, optimal_frequencies
from cdvision.entropy.tables import SymbolTables
from cdvision.models.faces.hsc import BASE_BOUND, HscCodec
from cdvision.models.faces.hsc_widths import BASE_SIDE
from cdvision.models.faces.integer_slices import build_slice_networks
from cdvision.models.faces.receiver.hsc import HscCoder
from cdvision.networks.factorised_prior import FactorisedPrior
from cdvision.networks.scales import QUALITIES

SILENT = 0.995
"""A channel whose symbols are 0 with at least this probability is not coded, and always 0."""
WORTH = 0.5 / TOTAL
"""Symbols at the ends of a table with less probability are left out: the encoder clips to it."""


def build_hsc_coder(codec: HscCodec) -> HscCoder:
    """Freeze the codec's prior and integer networks; raises ModelError without the proofs."""
    side, slices = build_slice_networks(codec.scales)
    return HscCoder(
        base_tables=base_tables(codec.prior),
        symbol_tables=symbol_tables(),
        side=side,
        slices=slices,
        qualities=QUALITIES,
        base_side=BASE_SIDE,
    )


@torch.no_grad()
def base_tables(prior: FactorisedPrior) -> SymbolTables:
    """Freeze the prior of the base: one table a quality and channel."""
    probabilities = prior.probabilities().double().cpu().numpy()
    rows = probabilities.reshape(-1, probabilities.shape[-1])
    tables = [_table(row / row.sum()) for row in rows]
    return SymbolTables(
        low=np.array([low for low, _ in tables], np.int16),
        high=np.array([low + len(frequency) - 2 for low, frequency in tables], np.int16),
        frequencies=np.concatenate([frequency for _, frequency in tables]).astype(np.uint16),
    )


def _table(row: NDArray[np.float64]) -> tuple[int, NDArray[np.int64]]:
    """First symbol and frequencies, the escape's, which is 0, last."""
    if row[BASE_BOUND] >= SILENT:
        return 0, np.array([TOTAL, 0])
    kept = np.flatnonzero(row >= WORTH)
    first, last = int(kept[0]), int(kept[-1])
    mass = row[first : last + 1].copy()
    mass[0] += row[:first].sum()
    mass[-1] += row[last + 1 :].sum()
    return first - BASE_BOUND, np.append(optimal_frequencies(mass), 0)
