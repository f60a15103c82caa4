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

from cdvision.entropy.coder import Symbols
from cdvision.entropy.core_layers import CoreLayer, CoreMap
from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.map_coder import HYPER, SYMBOLS, MapCoder, Pass


class HyperpriorCoder(MapCoder[IntegerNetwork]):
    """A map to one layer, all symbols in one pass; its parts are those of ``MapCoder``.

    Source: scale hyper-priors, Ballé et al., "Variational image compression with a scale
    hyperprior", ICLR 2018.
    """

    def core_layers(self) -> list[CoreLayer]:
        """Return the one layer, as the native core decodes it."""
        parts = self.symbol_tables, self.hyper_tables, self.network
        return [CoreMap(self.layers[0].id, self.qualities, *parts)]

    def map_scales(self, latents: Mapping[str, Symbols], quality: int) -> NDArray[np.uint8]:
        """Return the table of each symbol (C, h, w)."""
        self.check_quality(quality)
        _, height, width = latents[SYMBOLS].shape
        return self.network(latents[HYPER], quality, (height, width))

    def _decode(
        self, body: bytes, height: int, width: int, quality: int
    ) -> tuple[Symbols, Symbols]:
        from cdvision.entropy.rans import RansDecoder

        decoder = RansDecoder(body)
        # Both indices name tables, whatever was read: so the coder's construction has checked.
        index = self._hyper_index(self._hyper_shape(height, width), quality)
        hyper = decoder.read_known(index, self.hyper_tables)
        symbols = decoder.read_known(
            self.network(hyper, quality, (height, width)), self.symbol_tables
        )
        decoder.finish()
        return symbols, hyper

    def _passes(self, symbols: Symbols, hyper: Symbols, quality: int) -> list[Pass]:
        self.check_quality(quality)
        _, height, width = symbols.shape
        index = self.network(hyper, quality, (height, width))
        return [(np.where(index > 0, symbols, 0), index)]

    def _joined(self, passes: Sequence[Symbols], shape: tuple[int, ...]) -> Symbols:
        (symbols,) = passes
        return symbols

    @staticmethod
    def _network_from(arrays: Mapping[str, NDArray[np.generic]]) -> IntegerNetwork:
        return IntegerNetwork.from_arrays(arrays)
