"""The ``hyperprior`` codec: a hyper-latent under a factorised prior, symbols under its scales.

::

    z ──── factorised tables[quality, channel] ────┐
    └─ integer network ─▶ scale index              ├─ one interleaved rANS body
    symbols ─ Gaussian tables[scale index] ────────┘

Nothing in here is floating-point in a way that could differ between machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.latent_coder import LatentCoder, Latents, Pass

__all__ = ["HyperpriorCoder", "Latents"]


class HyperpriorCoder(LatentCoder[IntegerNetwork]):
    """Latents to bytes and back, all symbols in one pass; its parts are those of ``LatentCoder``.

    Source: scale hyper-priors, Ballé et al., "Variational image compression with a scale
    hyperprior", ICLR 2018.
    """

    def decode(self, body: bytes, height: int, width: int, quality: int) -> Latents:
        """Decode the latents of a map of ``height`` x ``width`` cells; raises BitstreamError."""
        from cdvision.entropy.rans import RansDecoder

        decoder = RansDecoder(body)
        hyper_shape = (self.hyper_channels, *self.hyper_size(height, width))
        # Both indices name tables, whatever was read: so the coder's construction has checked.
        hyper = decoder.read_known(self._hyper_index(hyper_shape, quality), self.hyper_tables)
        index = self.network(hyper, quality, (height, width))
        symbols = decoder.read_known(index, self.symbol_tables)
        decoder.finish()
        return Latents(symbols, hyper)

    def _passes(self, latents: Latents, quality: int) -> list[Pass]:
        _, height, width = latents.symbols.shape
        index = self.network(latents.hyper, quality, (height, width))
        return [(np.where(index > 0, latents.symbols, 0), index)]

    def _joined(
        self, passes: Sequence[NDArray[np.int32]], shape: tuple[int, ...]
    ) -> NDArray[np.int32]:
        (symbols,) = passes
        return symbols

    @staticmethod
    def _network_from(arrays: Mapping[str, NDArray[np.generic]]) -> IntegerNetwork:
        return IntegerNetwork.from_arrays(arrays)
