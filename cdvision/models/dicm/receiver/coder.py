"""The ``checkerboard`` codec: symbols in two passes, the second under scales that see the first.

::

    z ──────────── factorised tables[quality, channel] ──────────┐
    └─ integer network ─▶ scale index, odd cells                 │
    symbols, odd cells ── Gaussian tables[scale index] ──────────┼─ one interleaved rANS body
    └─ integer network, with z ─▶ scale index, even cells        │
    symbols, even cells ─ Gaussian tables[scale index] ──────────┘

A cell is odd where its row + column is odd. Nothing in here is floating-point in a way that could
differ between machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.coder import Symbols
from cdvision.entropy.context_network import ContextNetwork, board_of
from cdvision.entropy.map_coder import MapCoder, Pass


class CheckerboardCoder(MapCoder[ContextNetwork]):
    """A map to one layer, in two passes; its parts are those of ``MapCoder``.

    Source: He et al., "Checkerboard Context Model for Efficient Learned Image Compression", CVPR
    2021; two passes as DICM has them (Tang, Yi, Wang, IEEE Trans. Broadcasting 2025).
    """

    def _decode(
        self, body: bytes, height: int, width: int, quality: int
    ) -> tuple[Symbols, Symbols]:
        from cdvision.entropy.rans import RansDecoder

        decoder, network, board = RansDecoder(body), self.network, board_of(height, width)
        index = self._hyper_index(self._hyper_shape(height, width), quality)
        hyper = decoder.read(index, self.hyper_tables)
        features = network.features(hyper, quality, (height, width))
        # The second pass sees the first: its tables are chosen by what has just been read.
        odd = network.first_index(features, board, quality)
        first = decoder.read(odd, self.symbol_tables)
        even = network.second_index(features, first, board, quality)
        second = decoder.read(even, self.symbol_tables)
        decoder.finish()
        return self._joined([first, second], (self.channels, height, width)), hyper

    def _passes(self, symbols: Symbols, hyper: Symbols, quality: int) -> list[Pass]:
        self.check_quality(quality)
        channels, height, width = symbols.shape
        network, board = self.network, board_of(height, width)
        flat = symbols.reshape(channels, -1)
        features = network.features(hyper, quality, (height, width))
        odd = network.first_index(features, board, quality)
        # Table 0 means skipped: the second pass must see the zero that the receiver will have.
        first = np.where(odd > 0, flat[:, board.odd], 0)
        even = network.second_index(features, first, board, quality)
        return [(first, odd), (np.where(even > 0, flat[:, board.even], 0), even)]

    def _joined(self, passes: Sequence[Symbols], shape: tuple[int, ...]) -> Symbols:
        channels, height, width = shape
        board, symbols = board_of(height, width), np.empty((channels, height * width), np.int32)
        symbols[:, board.odd], symbols[:, board.even] = passes
        return symbols.reshape(shape)

    @staticmethod
    def _network_from(arrays: Mapping[str, NDArray[np.generic]]) -> ContextNetwork:
        return ContextNetwork.from_arrays(arrays)
