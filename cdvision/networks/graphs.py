"""The dense graphs of each network: what engines run and what export writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cdvision.entropy.map_coder import HYPER, SYMBOLS
from cdvision.errors import ModelError
from cdvision.package.card import FeatureSpec
from cdvision.package.families import find_part
from cdvision.package.graph_names import QUALITY

STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)  # at which some graph has an input
Axes = Mapping[str, tuple[str | int, ...]]


@dataclass(frozen=True)
class Graph:
    """One dense network with its contract, which exporter, engine and tests read."""

    module: nn.Module  # is given the inputs in their order, and returns a tuple of the outputs
    inputs: Axes  # name -> names of the axes; an integer where an axis is fixed
    outputs: tuple[str, ...]
    dtypes: Mapping[str, torch.dtype]  # of the inputs


def graph_modules(network: str, model: nn.Module) -> dict[str, Graph]:
    """Return every graph of a network by name; raises ModelError for an unknown one."""
    graphs: dict[str, Graph] = find_part("graphs", network).graphs(model)
    return graphs


def pixel_graphs(network: str, model: nn.Module) -> dict[str, Graph]:
    """Return, for each tail, its whole network, without a codec: ``answer.TAIL`` from an image.

    Raises:
        ModelError: the package does not hold the networks as they were before it was trained.
    """
    family = find_part("graphs", network)
    if not hasattr(family, "pixel_graphs"):
        raise ModelError(
            f"{network!r}: its package does not hold the networks as they were without a codec"
        )
    graphs: dict[str, Graph] = family.pixel_graphs(model)
    return graphs


def load_network(network: str, weights: Path) -> nn.Module:
    """Build a network and fill it from safetensors (fp16 or fp32), in evaluation mode."""
    model: nn.Module = find_part("graphs", network).load(weights)
    return model.eval().requires_grad_(False)


def latents_decoder(network: str, model: nn.Module) -> tuple[nn.Module, FeatureSpec]:
    """Return what every tap of a network starts with, and the map that it gives.

    The module takes float symbols and hyper-latent and (N,) int64 qualities.
    """
    decoder: tuple[nn.Module, FeatureSpec] = find_part("graphs", network).latents_decoder(model)
    return decoder


def map_axes(symbols: tuple[int, int], hyper: tuple[int, int]) -> Axes:
    """Axes of what graphs behind a map take: (channels, stride) of symbols and hyper-latent."""
    return {
        name: ("batch", channels, f"h{stride}", f"w{stride}")
        for name, (channels, stride) in ((SYMBOLS, symbols), (HYPER, hyper))
    } | {QUALITY: ("batch",)}


def example_inputs(
    graph: Graph, *, height: int, width: int, batch: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return random arrays of the right names, shapes and types for an image size."""
    sizes = {"batch": batch, "height": height, "width": width}
    # A map of every stride covers the image: its sides are rounded up.
    for stride in STRIDES:
        sizes |= {f"h{stride}": -(-height // stride), f"w{stride}": -(-width // stride)}
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, axes in graph.inputs.items():
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in axes]
        dtype = torch.empty(0, dtype=graph.dtypes[name]).numpy().dtype
        # Symbols from 0 to 3: large ones would hide a wrong mean behind the scale of the outputs.
        low, limit = {"image": (0, 256), "quality": (0, 8), "layers": (1, 3)}.get(name, (0, 4))
        integers = rng.integers(low, limit, size=shape)
        random = rng.normal(size=shape) if dtype.kind == "f" else integers
        arrays[name] = random.astype(dtype)
    return arrays
