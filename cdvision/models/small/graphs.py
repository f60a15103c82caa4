"""The dense graphs of `small`: a sender's two, and for each tail a tap alone and with the rest."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cdvision.heads.mask_head import MaskHead
from cdvision.models.small.descriptor import ELEMENTS
from cdvision.models.small.nanodet import DetectorFeatures, NanoDetTail
from cdvision.models.small.network import CLASSIFIER, WINDOW, Small, module_key
from cdvision.models.small.sequence_graph import DeltaGraph
from cdvision.networks.graphs import Axes, Graph, map_axes
from cdvision.networks.latent_model import HYPER_CHANNELS, LATENT_CHANNELS
from cdvision.networks.stored_weights import restore_weights
from cdvision.package.card import FeatureSpec

DTYPES = {"image": torch.uint8, "window": torch.uint8, "quality": torch.int64}  # latents are int32


def load(weights: Path) -> Small:
    """Build the network from safetensors."""
    return Small.from_state(restore_weights(load_file(weights)))


def graphs(model: Small) -> dict[str, Graph]:
    """Return every graph by name."""
    pixels: Axes = {"image": ("batch", "height", "width", 3)}
    window: Axes = {"window": ("batch", WINDOW, WINDOW, 3), "quality": ("batch",)}
    latents = map_axes((LATENT_CHANNELS, 16), (HYPER_CHANNELS, 64))
    received = {"previous": latents["symbols"], **{k: latents[k] for k in ("hyper", "quality")}}
    descriptor: Axes = {"descriptor": ("batch", ELEMENTS), "quality": ("batch",)}
    scales, dense = ("features", "fine"), ("scores", "distances")
    detector = model.detector
    table: dict[str, tuple[nn.Module, Axes, tuple[str, ...]]] = {
        "encoder": (
            MapEncoderGraph(model), {**pixels, "quality": ("batch",)}, ("symbols", "hyper")
        ),
        "delta": (DeltaGraph(model), {**pixels, **received}, ("symbols",)),
        "descriptor": (DescriptorGraph(model), window, ("descriptor",)),
        f"tap.{detector}": (DetectorTapGraph(model), latents, scales),
        f"tap.{CLASSIFIER}": (ClassifierTapGraph(model), descriptor, ("features",)),
        f"answer.{detector}": (DetectorGraph(model), latents, (*scales, *dense)),
        f"answer.{CLASSIFIER}": (ClassifierGraph(model), descriptor, ("features", "logits")),
    }  # fmt: skip
    if model.uncompressed_front is not None:
        table[f"reference.{detector}"] = (ReferenceGraph(model), pixels, dense)
    if model.masks is not None:
        outputs = (*scales, *dense, "codes", "control", "prototypes")
        table[f"segment.{detector}"] = (SegmenterGraph(model), latents, outputs)
    return {
        name: Graph(module.eval(), inputs, outputs, {k: DTYPES.get(k, torch.int32) for k in inputs})
        for name, (module, inputs, outputs) in table.items()
    }


def latents_decoder(model: Small) -> tuple[nn.Module, FeatureSpec]:
    """Return the dequantiser."""
    return model.dequantiser, FeatureSpec(LATENT_CHANNELS, 16)


class MapEncoderGraph(nn.Module):
    """uint8 image and quality to the map's latents."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.encoder, self.dequantiser = model.encoder, model.dequantiser
        self.hyper_decoder = model.hyper_decoder  # integers: it tells what will be skipped
        self._encode = model.encode

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 and (N,) int64 to int32 symbols and hyper-latent."""
        latents = self._encode(image.permute(0, 3, 1, 2).float(), quality)
        return latents.symbols.to(torch.int32), latents.hyper.to(torch.int32)


class DescriptorGraph(nn.Module):
    """uint8 window and quality to the descriptor."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.descriptor = model.descriptor

    def forward(self, window: Tensor, quality: Tensor) -> tuple[Tensor]:
        """Map (N, 224, 224, 3) uint8 and (N,) int64 to int32 (N, D)."""
        symbols = self.descriptor(window.permute(0, 3, 1, 2).float(), quality)
        return (symbols.to(torch.int32),)


class DetectorTapGraph(nn.Module):
    """Integer latents to the detector's features, those of stage 3 first."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.dequantiser, self._key = model.dequantiser, module_key(model.detector)
        self.taps = nn.ModuleDict({self._key: model.detector_tap})

    def features(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> DetectorFeatures:
        """Map int32 latents and (N,) int64 qualities to features at both scales."""
        y = self.dequantiser(symbols.float(), hyper.float(), quality)
        features: DetectorFeatures = self.taps[self._key](y)
        return features

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the features at 1/16 and at 1/8."""
        features = self.features(*inputs)
        return features.coarse, features.fine


# Tap and tail are one graph and not two: a second session would bring threads of its own, and the
# idle ones of the first still spin when the second wants the cores (2 ms of 10 on two cores).
class DetectorGraph(DetectorTapGraph):
    """Integer latents to features and dense detections."""

    def __init__(self, model: Small) -> None:
        super().__init__(model)
        self.tails = nn.ModuleDict({self._key: model.detector_tail})

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features, scores (N, M, 80) after the sigmoid, distance logits (N, M, 32)."""
        features = self.features(*inputs)
        dense = self.tails[self._key](features)
        return features.coarse, features.fine, torch.sigmoid(dense.scores), dense.distances


class SegmenterGraph(DetectorGraph):
    """The detector with its mask branch; a graph of its own, so that detecting costs no more."""

    def __init__(self, model: Small) -> None:
        super().__init__(model)
        self.masks = model.masks

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return what the detector does, and what ``MaskHead`` does."""
        features = self.features(*inputs)
        tail = cast(NanoDetTail, self.tails[self._key])
        pyramid = tail.pyramid(features)
        embeddings = tail.head.embeddings(pyramid)
        scores, distances = tail.head.outputs(embeddings)
        masks = cast(MaskHead, self.masks)(features.fine, pyramid, embeddings)
        return features.coarse, features.fine, torch.sigmoid(scores), distances, *masks


class ClassifierTapGraph(nn.Module):
    """The descriptor to the classifier's pooled features."""

    def __init__(self, model: Small) -> None:
        super().__init__()
        self.taps = nn.ModuleDict({CLASSIFIER: model.classifier_tap})

    def forward(self, descriptor: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 (N, D) and (N,) int64 qualities to a map of one cell (N, 1280, 1, 1)."""
        return (self.taps[CLASSIFIER](descriptor.float(), quality)[:, :, None, None],)


class ClassifierGraph(ClassifierTapGraph):
    """The descriptor to pooled features and class logits."""

    def __init__(self, model: Small) -> None:
        super().__init__(model)
        self.tails = nn.ModuleDict({CLASSIFIER: model.classifier_tail})

    def forward(self, descriptor: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Return features (N, 1280, 1, 1) and logits (N, 1000)."""
        (features,) = super().forward(descriptor, quality)
        return features, self.tails[CLASSIFIER](features.flatten(1))


class ReferenceGraph(nn.Module):
    """The detector on pixels, front and tail in one graph: what `bench speed` times us against.

    Its speed is that of the uncompressed network, to the operation; its accuracy is not, as stage 3
    and the tail have learned to suit the code.
    """

    def __init__(self, model: Small) -> None:
        super().__init__()
        self._key, self.wide_front = module_key(model.detector), model.wide_front
        if model.wide_front is None:  # weights are found by their names in the whole model
            self.encoder = nn.ModuleDict({"front": model.encoder.front})
        self.tails = nn.ModuleDict({self._key: model.detector_tail})

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 to the detector's dense outputs."""
        front = self.wide_front or self.encoder["front"]
        dense = self.tails[self._key](front(image.permute(0, 3, 1, 2).float()))
        return torch.sigmoid(dense.scores), dense.distances
