"""Layers in the two forms that the native core decodes whole, without Python (``codec.cdvc``)."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from cdvision.entropy.integer_network import IntegerNetwork
from cdvision.entropy.tables import SymbolTables


class CoreVector(NamedTuple):
    """A vector by the range coder: one table a quality and element, qualities outermost."""

    id: int  # of the layer
    qualities: int
    elements: int
    tables: SymbolTables


class CoreMap(NamedTuple):
    """A map by rANS, behind the hyper-latent from which a network chooses its tables."""

    id: int  # of the layer
    qualities: int
    symbols: SymbolTables  # one table a scale index
    hyper: SymbolTables  # one table a quality and channel of the hyper-latent
    network: IntegerNetwork


CoreLayer: TypeAlias = CoreVector | CoreMap
