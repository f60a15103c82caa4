"""The dense graphs of `small`: its encoder, and for each network a tap alone and with its tail."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cdvision.heads.mask_head import MaskHead
from cdvision.networks.graphs import SIDE, Axes, Graph, latent_axes
from cdvision.networks.latent_model import HYPER_CHANNELS, LATENT_CHANNELS
from cdvision.networks.nanodet import NanoDetTail
from cdvision.networks.small import Small
from cdvision.package.card import FeatureSpec


def load(weights: Path) -> Small:
    """Build the network from safetensors."""
    return Small.from_state({k: v.float() for k, v in load_file(weights).items()})


def graphs(model: Small) -> dict[str, Graph]:
    """Return every graph by name."""
    int32, int64, real, uint8 = torch.int32, torch.int64, torch.float32, torch.uint8
    pixels: Axes = {"image": ("batch", "height", "width", 3)}
    latents = latent_axes((LATENT_CHANNELS, 16), (HYPER_CHANNELS, 64))
    windows: Axes = {"rows": ("batch", SIDE, "h8"), "columns": ("batch", SIDE, "w8")}
    integers, reals = (int32, int32, int64), (real, real)
    tables: list[tuple[str, nn.Module, Axes, tuple[str, ...], tuple[torch.dtype, ...]]] = [
        ("encoder", EncoderGraph(model), {**pixels, "quality": ("batch",)},
         ("symbols", "hyper"), (uint8, int64)),
        ("tap.nanodet_plus_m", TapGraph(model, "nanodet_plus_m"), latents,
         ("features",), integers),
        ("tap.mobilenet_v2", TapGraph(model, "mobilenet_v2"), {**latents, **windows},
         ("features",), integers + reals),
        ("answer.nanodet_plus_m", DetectorGraph(model), latents,
         ("features", "scores", "distances"), integers),
        ("answer.mobilenet_v2", ClassifierGraph(model), {**latents, **windows},
         ("features", "logits"), integers + reals),
        ("reference.nanodet_plus_m", ReferenceGraph(model), pixels,
         ("scores", "distances"), (uint8,)),
    ]  # fmt: skip
    if model.masks is not None:
        tables.append(
            ("segment.nanodet_plus_m", SegmenterGraph(model), latents,
             ("features", "scores", "distances", "codes", "control", "prototypes"), integers)
        )  # fmt: skip
    return {
        name: Graph(module.eval(), inputs, outputs, dict(zip(inputs, dtypes, strict=True)))
        for name, module, inputs, outputs, dtypes in tables
    }


def latents_decoder(model: Small) -> tuple[nn.Module, FeatureSpec]:
    """Return the dequantiser."""
    return model.dequantiser, FeatureSpec(LATENT_CHANNELS, 16)


class EncoderGraph(nn.Module):
    """uint8 image and quality to latents."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.encoder, self.dequantiser = model.encoder, model.dequantiser
        self.hyper_decoder = model.hyper_decoder  # integers: it tells what will be skipped
        self._encode = model.encode

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 and (N,) int64 to int32 symbols and hyper-latent."""
        latents = self._encode(image.permute(0, 3, 1, 2).float(), quality)
        return latents.symbols.to(torch.int32), latents.hyper.to(torch.int32)


class TapGraph(nn.Module):
    """Integer latents to one tail's features: dequantiser and tap."""

    def __init__(self, model: Small, name: str) -> None:
        super().__init__()
        self.dequantiser = model.dequantiser
        self.taps = nn.ModuleDict({name: model.taps[name]})
        self._name = name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents, (N,) int64 qualities and what the tap takes beside to features."""
        symbols, hyper, quality, *windows = inputs
        y = self.dequantiser(symbols.float(), hyper.float(), quality)
        return (self.taps[self._name](y, *windows),)


class DetectorGraph(TapGraph):
    """Integer latents to features and dense detections.

    One graph and not two: a second session would bring threads of its own, and the idle ones
    of the first still spin when the second wants the cores (2 ms of 10 on two cores).
    """

    def __init__(self, model: Small) -> None:
        super().__init__(model, "nanodet_plus_m")
        self.tails = nn.ModuleDict({"nanodet_plus_m": model.detector_tail})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features, scores (N, M, 80) after the sigmoid, distance logits (N, M, 32)."""
        (features,) = super().forward(*inputs)
        dense = self.tails["nanodet_plus_m"](features)
        return features, torch.sigmoid(dense.scores), dense.distances


class SegmenterGraph(DetectorGraph):
    """The detector with its mask branch; a graph of its own, so that detecting costs no more."""

    def __init__(self, model: Small) -> None:
        super().__init__(model)
        self.masks = model.masks

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the detector does, and what ``MaskHead`` does."""
        (features,) = TapGraph.forward(self, *inputs)
        tail = cast(NanoDetTail, self.tails["nanodet_plus_m"])
        pyramid = tail.pyramid(features)
        embeddings = tail.head.embeddings(pyramid)
        scores, distances = tail.head.outputs(embeddings)
        masks = cast(MaskHead, self.masks)(features, pyramid, embeddings)
        return features, torch.sigmoid(scores), distances, *masks


class ClassifierGraph(TapGraph):
    """Integer latents to features and class logits."""

    def __init__(self, model: Small) -> None:
        super().__init__(model, "mobilenet_v2")
        self.tails = nn.ModuleDict({"mobilenet_v2": model.classifier_tail})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features and logits (N, 1000)."""
        (features,) = super().forward(*inputs)
        return features, self.tails["mobilenet_v2"](features)


class ReferenceGraph(nn.Module):
    """The detector on pixels, front and tail in one graph: what `bench speed` times us against.

    It holds the package's own weights, so its speed is that of the uncompressed network, to the
    operation, while its accuracy is not (the tail has learned to read decoded features).
    """

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"front": model.encoder.front})
        self.tails = nn.ModuleDict({"nanodet_plus_m": model.tails["nanodet_plus_m"]})

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 to the detector's dense outputs."""
        features = self.encoder["front"](image.permute(0, 3, 1, 2).float())
        dense = self.tails["nanodet_plus_m"](features)
        return torch.sigmoid(dense.scores), dense.distances
