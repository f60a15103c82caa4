"""The parts of a card that follow from the coder: latents by name, and the sender's layers."""

from __future__ import annotations

from collections.abc import Mapping

from cdvision.entropy.coder import Coder
from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.package.card import LatentSpec, SenderGraph, SenderSpec

MapShape = tuple[int, int]
"""Channels and stride of a map."""


def latent_specs(
    coder: Coder,
    *,
    maps: Mapping[str, MapShape] | None = None,
    fixed: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, LatentSpec]:
    """Describe a coder's latents for a card: maps by channels and stride, others by their shape."""
    maps, fixed = maps or {}, fixed or {}
    specs: dict[str, LatentSpec] = {}
    for name, layer in coder.latent_layers.items():
        low, high = coder.ranges()[name]
        if name in maps:
            channels, stride = maps[name]
            specs[name] = LatentSpec(layer, channels, stride, low=low, high=high)
        else:
            channels, *sides = fixed[name]
            specs[name] = LatentSpec(layer, channels, sides=tuple(sides), low=low, high=high)
    return specs


def map_latents(coder: Coder, symbols: MapShape, hyper: MapShape) -> dict[str, LatentSpec]:
    """Describe the latents of a coder of one map."""
    return latent_specs(coder, maps={SYMBOLS: symbols, HYPER: hyper})


def one_sender(coder: Coder, **graphs: SenderGraph) -> dict[str, SenderSpec]:
    """Describe a model's only sender: its graphs, or one graph that gives every layer."""
    whole = {"encoder": SenderGraph(tuple(layer.id for layer in coder.layers))}
    return {"full": SenderSpec(graphs or whole)}
