"""The dense graphs of a model for any networks; from weights alone only the taps can be built."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.models.any_network.network import AnyNetworkModel, AnyNetworkShape
from cdvision.networks.graphs import Graph, map_axes
from cdvision.networks.latent_model import HYPER_CHANNELS, HYPER_STRIDE, LATENT_STRIDE
from cdvision.package.card import FeatureSpec

NETWORK = "served"  # what cards call the network, and the metadata of weights its shape
FRONTS, TAILS = "fronts.", "tails."  # begin the names of a user's own weights
# Of inputs; all others are features.
TYPES = dict(image=torch.uint8, symbols=torch.int32, hyper=torch.int32, quality=torch.int64)


def load(weights: Path) -> AnyNetworkModel:
    """Build the model from safetensors; raises ModelError where its shape is not told."""
    with safe_open(weights, framework="pt") as file:
        told = (file.metadata() or {}).get(NETWORK)
        names = [name for name in file.keys() if not name.startswith((FRONTS, TAILS))]
        state = {name: file.get_tensor(name).float() for name in names}
    if told is None:
        raise ModelError(f"{weights}: expected the model's shape in the metadata, found none")
    model = AnyNetworkModel(AnyNetworkShape.from_dict(json.loads(told)))
    model.load_state_dict(state)
    return model


def graphs(model: AnyNetworkModel) -> dict[str, Graph]:
    """Return the graphs that need no user's network, by name."""
    return {f"tap.{name}": receiver_graph(model, name) for name in model.shape.features}


def latents_decoder(model: AnyNetworkModel) -> tuple[nn.Module, FeatureSpec]:
    """Return the dequantiser, and the map that it gives."""
    return model.dequantiser, FeatureSpec(model.shape.channels, LATENT_STRIDE)


def encoder_graph(
    model: AnyNetworkModel, fronts: Mapping[str, nn.Module], given: Sequence[str] = ()
) -> Graph:
    """Return the sender's graph, of ``fronts`` that map (N, 3, H, W) in 0..255 to features.

    ``given`` names networks without one, whose features the graph takes as inputs instead.
    """
    inputs: dict[str, tuple[str | int, ...]] = {}
    if fronts:
        inputs["image"] = ("batch", "height", "width", 3)
    inputs["quality"] = ("batch",)
    for name in given:
        spec = model.shape.features[name]
        axes = ("batch", spec.channels, f"h{spec.stride}", f"w{spec.stride}")
        inputs[features_input(name)] = axes
    dtypes = {name: TYPES.get(name, torch.float32) for name in inputs}
    module = FrontsEncoderGraph(model, fronts, given).eval()
    return Graph(module, inputs, ("symbols", "hyper"), dtypes)


def features_input(name: str) -> str:
    """Name of the input that takes a network's features."""
    return f"features_{name}"


def receiver_graph(
    model: AnyNetworkModel, name: str, tail: nn.Module | None = None, outputs: tuple[str, ...] = ()
) -> Graph:
    """Return the graph from latents to a network's features, and to a tail's named outputs."""
    axes = map_axes((model.shape.channels, LATENT_STRIDE), (HYPER_CHANNELS, HYPER_STRIDE))
    module = ReceiverGraph(model, name, tail, outputs).eval()
    return Graph(module, axes, ("features", *outputs), {name: TYPES[name] for name in axes})


class FrontsEncoderGraph(nn.Module):
    """uint8 image and quality to latents: every front, then the model."""

    def __init__(
        self, model: AnyNetworkModel, fronts: Mapping[str, nn.Module], given: Sequence[str]
    ) -> None:
        super().__init__()
        self.fronts, self._given = nn.ModuleDict(fronts), tuple(given)
        self.encoder, self.dequantiser = model.encoder, model.dequantiser
        self.hyper_decoder = model.hyper_decoder  # integers: it tells what will be skipped
        # The method, not the model: taps must not become part of the sender's graph.
        self._encode = model.encode_features

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8, (N,) int64 and given features to int32 symbols and hyper."""
        pixels, (quality, *given) = None, inputs
        if self.fronts:
            image, quality, *given = inputs
            pixels = image.permute(0, 3, 1, 2).float()
        features = {name: front(pixels) for name, front in self.fronts.items()}
        features |= dict(zip(self._given, given, strict=True))
        gathered = self.encoder.gather([features[name] for name in self.encoder.gathers])
        latents = self._encode(gathered, quality)
        return latents.symbols.to(torch.int32), latents.hyper.to(torch.int32)


class ReceiverGraph(nn.Module):
    """Integer latents to one network's features: dequantiser and tap, and its tail if given."""

    def __init__(
        self, model: AnyNetworkModel, name: str, tail: nn.Module | None, outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.dequantiser = model.dequantiser
        self.taps = nn.ModuleDict({name: model.tap(name)})
        self.tails = nn.ModuleDict({} if tail is None else {name: tail})
        self._name, self._outputs = name, outputs

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents and (N,) int64 qualities to features and outputs."""
        y = self.dequantiser(symbols.float(), hyper.float(), quality)
        features = self.taps[self._name](y, quality)
        found: Mapping[str, Tensor] = {}
        if self._outputs:
            found = self.tails[self._name](features)
        return (features, *(found[name] for name in self._outputs))
