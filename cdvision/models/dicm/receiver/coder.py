"""The ``checkerboard`` codec: symbols in two passes, the second under scales that see the first.

::

    z ──────────── factorised tables[quality, channel] ──────────┐
    └─ integer network ─▶ scale index, odd cells                 │
    symbols, odd cells ── Gaussian tables[scale index] ──────────┼─ one interleaved rANS body
    └─ integer network, with z ─▶ scale index, even cells        │
    symbols, even cells ─ Gaussian tables[scale index] ──────────┘

A cell is odd where its row + column is odd. Nothing in here is floating-point in a way that could
differ between machines; means, which may come from neighbours too, are the engine's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.context_network import ContextNetwork, board_of
from cdvision.entropy.latent_coder import LatentCoder, Latents, Pass


class CheckerboardCoder(LatentCoder[ContextNetwork]):
    """Latents to bytes and back, in two passes; its parts are those of ``LatentCoder``.

    Source: He et al., "Checkerboard Context Model for Efficient Learned Image Compression", CVPR
    2021; two passes as DICM has them (Tang, Yi, Wang, IEEE Trans. Broadcasting 2025).
    """

    def decode(self, body: bytes, height: int, width: int, quality: int) -> Latents:
        """Decode the latents of a map of ``height`` x ``width`` cells; raises BitstreamError."""
        from cdvision.entropy.rans import RansDecoder

        decoder, network, board = RansDecoder(body), self.network, board_of(height, width)
        hyper_shape = (self.hyper_channels, *self.hyper_size(height, width))
        hyper = decoder.read(self._hyper_index(hyper_shape, quality), self.hyper_tables)
        features = network.features(hyper, quality, (height, width))
        index = network.first_index(features, board, quality)
        first = decoder.read(index, self.symbol_tables)
        index = network.second_index(features, first, board, quality)
        second = decoder.read(index, self.symbol_tables)
        decoder.finish()
        return Latents(self._joined([first, second], (self.channels, height, width)), hyper)

    def _passes(self, latents: Latents, quality: int) -> list[Pass]:
        channels, height, width = latents.symbols.shape
        network, board = self.network, board_of(height, width)
        symbols = latents.symbols.reshape(channels, -1)
        features = network.features(latents.hyper, quality, (height, width))
        index = network.first_index(features, board, quality)
        first = np.where(index > 0, symbols[:, board.odd], 0), index
        index = network.second_index(features, first[0], board, quality)
        return [first, (np.where(index > 0, symbols[:, board.even], 0), index)]

    def _joined(
        self, passes: Sequence[NDArray[np.int32]], shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        channels, height, width = shape
        board, symbols = board_of(height, width), np.empty((channels, height * width), np.int32)
        symbols[:, board.odd], symbols[:, board.even] = passes
        return symbols.reshape(shape)

    @staticmethod
    def _network_from(arrays: Mapping[str, NDArray[np.generic]]) -> ContextNetwork:
        return ContextNetwork.from_arrays(arrays)
