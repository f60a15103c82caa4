"""The integer context network: table indices from the hyper-latent and from decoded neighbours.

::

    z ─ hyper ─▶ features ─┬─ first ──────────────────────────────▶ index of the first pass
                           └──────────────────────────────┬─ second ─▶ index of the second pass
    first pass's |symbols| ─ squeeze ─ twelve neighbours ─┘

The first pass codes the odd cells, those whose row + column is odd, the second the even ones. Each
box is a chain of integer layers, and every number between boxes lies in [0, 127], so each chain's
own proof of exact sums covers the whole. All but ``hyper`` see one cell at a time and are computed
where they are needed only.

Source of the idea: He et al., "Checkerboard Context Model for Efficient Learned Image Compression",
CVPR 2021. In integers, and for scales only, it is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_network import IntegerNetwork, joined_bytes
from cdvision.entropy.tables import named_parts, part_of
from cdvision.errors import ModelError

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# What the network is shown of a symbol: ``round(8 log2(1 + |symbol|))``, of 15 at the most. Scale
# indices are logarithms of scales, so steps of equal ratio should look equal. Written out, because
# a fingerprint covers them and a machine's log2 may round otherwise.
MAGNITUDES = np.array([0, 8, 13, 16, 19, 21, 22, 24, 25, 27, 28, 29, 30, 30, 31, 32], np.uint8)

REACH = 2
# Rows and columns from an even cell to its odd neighbours within a window of 5x5: twelve.
OFFSETS = tuple(
    (row, column)
    for row in range(-REACH, REACH + 1)
    for column in range(-REACH, REACH + 1)
    if (row + column) % 2
)

PARTS = ("hyper", "first", "squeeze", "second")


class Board(NamedTuple):
    """Where the cells of a map belong; places count row by row."""

    odd: Places  # (n,) of the first pass
    even: Places  # (m,) of the second
    neighbours: Places  # (m, 12) positions within ``odd`` of an even cell's; n where there is none


@lru_cache(maxsize=16)
def board_of(height: int, width: int) -> Board:
    """Lay a checkerboard over a map.

    >>> board = board_of(2, 3)
    >>> board.odd, board.even
    (array([1, 3, 5]), array([0, 2, 4]))
    """
    is_odd = np.add.outer(np.arange(height), np.arange(width)) % 2 == 1
    odd, even = np.flatnonzero(is_odd), np.flatnonzero(~is_odd)
    # A margin of len(odd), which no cell has, stands for "no neighbour" beyond the edges.
    order = np.full((height + 2 * REACH, width + 2 * REACH), len(odd))
    order[REACH : REACH + height, REACH : REACH + width][is_odd] = np.arange(len(odd))
    row, column = even // width + REACH, even % width + REACH
    neighbours = np.stack([order[row + down, column + right] for down, right in OFFSETS], axis=1)
    return Board(odd, even, neighbours)


@dataclass(frozen=True, eq=False)
class ContextNetwork:
    """Hyper-latent and first pass to table indices.

    Raises:
        ModelError: the chains do not fit each other, or see more than one cell where they must not.
    """

    hyper: IntegerNetwork  # ``z`` to features of every cell
    first: IntegerNetwork  # features of an odd cell to its indices
    squeeze: IntegerNetwork  # magnitudes of an odd cell's symbols to what its neighbours are told
    # Features of an even cell, then what its twelve neighbours tell, to its indices.
    second: IntegerNetwork

    def __post_init__(self) -> None:
        for name, highest in (
            ("first", self.hyper.highest),
            ("squeeze", int(MAGNITUDES.max())),
            ("second", max(self.hyper.highest, self.squeeze.highest)),
        ):
            network: IntegerNetwork = getattr(self, name)
            if any((layer.kernel, layer.upsample) != (1, 1) for layer in network.layers):
                raise ModelError(f"context network: expected 1x1 layers in {name!r}")
            # A chain's proof of exact sums covers inputs up to its bound only.
            if highest > network.bound:
                raise ModelError(
                    f"context network: {name!r} proves {network.bound}, is given {highest}"
                )
        self._check_channels()

    def _check_channels(self) -> None:
        told = self.hyper.channels + len(OFFSETS) * self.squeeze.channels
        for name, found, expected in (
            ("first", self.first.inputs, self.hyper.channels),
            ("squeeze", self.squeeze.inputs, self.channels),
            ("second", self.second.inputs, told),
            ("second's output", self.second.channels, self.channels),
        ):
            if found != expected:
                raise ModelError(
                    f"context network: {name}: expected {expected} channels, found {found}"
                )

    @property
    def bound(self) -> int:
        """The hyper-latent lies in [-bound, bound]."""
        return self.hyper.bound

    @property
    def inputs(self) -> int:
        """Channels of the hyper-latent."""
        return self.hyper.inputs

    @property
    def channels(self) -> int:
        """Channels of the symbols and of their indices."""
        return self.first.channels

    @property
    def highest(self) -> int:
        """Greatest index that can come out."""
        return max(self.first.highest, self.second.highest)

    @property
    def upsample(self) -> int:
        """Height of the symbols' map over height of the hyper-latent's."""
        return self.hyper.upsample

    def features(self, z: NDArray[np.integer], quality: int, size: tuple[int, int]) -> Bytes:
        """Return the features of every cell (F, height * width) from ``z`` (C_z, ...)."""
        return self.hyper(z, quality, size).reshape(self.hyper.channels, -1)

    def first_index(self, features: Bytes, board: Board, quality: int) -> Bytes:
        """Return the indices of the odd cells (C, n) from all cells' features."""
        return _on_cells(self.first, features[:, board.odd], quality)

    def second_index(
        self, features: Bytes, symbols: NDArray[np.integer], board: Board, quality: int
    ) -> Bytes:
        """Return the indices of the even cells (C, m) from the odd cells' ``symbols`` (C, n)."""
        told = _on_cells(self.squeeze, symbol_magnitudes(symbols), quality)
        # One row of zeros behind the odd cells is what a neighbour beyond the edge tells.
        outside = np.zeros((1, len(told)), np.uint8)
        neighbours = np.concatenate([told.T, outside])[board.neighbours]
        seen = [features[:, board.even].T, neighbours.reshape(len(board.even), -1)]
        return _on_cells(self.second, np.concatenate(seen, axis=1).T, quality)

    def canonical_bytes(self) -> bytes:
        """Serialise in the one fixed layout that fingerprints hash."""
        chains = [getattr(self, name).canonical_bytes() for name in PARTS]
        return joined_bytes([b"CDVX", MAGNITUDES.tobytes(), *chains])

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Give the arrays that an npz file stores; ``from_arrays`` reads them back."""
        return named_parts({name: getattr(self, name).to_arrays() for name in PARTS})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ContextNetwork:
        """Rebuild a network from ``to_arrays``, proofs included; raises ModelError."""
        chains = {name: part_of(arrays, name) for name in PARTS}
        strange = set(arrays) - set(named_parts(chains))
        if strange:
            raise ModelError(f"context network: unknown arrays {sorted(strange)}")
        return cls(**{name: IntegerNetwork.from_arrays(part) for name, part in chains.items()})


def symbol_magnitudes(symbols: NDArray[np.integer]) -> Bytes:
    """Return what the network is shown of symbols, of any shape."""
    largest = len(MAGNITUDES) - 1
    # Clipped before the magnitude is taken: that of the least integer would not fit its type.
    magnitudes: Bytes = MAGNITUDES[np.abs(np.clip(symbols, -largest, largest))]
    return magnitudes


def _on_cells(network: IntegerNetwork, columns: Bytes, quality: int) -> Bytes:
    """Apply 1x1 layers to (channels, cells)."""
    # A map of one cell has no odd one, and the kernel takes no empty map.
    if columns.shape[1] == 0:
        return np.zeros((network.channels, 0), np.uint8)
    return network(columns[:, None], quality)[:, 0]
