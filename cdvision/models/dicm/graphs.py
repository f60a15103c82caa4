"""The dense graphs of `dicm-re` and `dicm`: encoder, features alone, and each head's dense part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cdvision.heads.two_stage.graphs import dense_outputs, two_stage_graphs
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.models.dicm.network import DicmPackage, load_package_weights
from cdvision.models.dicm.widths import (
    FILTERED_HYPER_STRIDE,
    FILTERED_STRIDE,
    HYPER_STRIDE,
    LATENTS_STRIDE,
)
from cdvision.networks.graphs import Axes, Graph, map_axes
from cdvision.package.card import FeatureSpec

CLASSIFIER, DETECTOR = "classifier", "detector"  # names of the tails
MapShape = tuple[int, int]
INTEGERS = (torch.int32, torch.int32, torch.int64)


def load(weights: Path) -> DicmPackage:
    """Build the network from safetensors, settings in their metadata."""
    return load_package_weights(weights)


def graphs(model: DicmPackage) -> dict[str, Graph]:
    """Return every graph by name."""
    latents = _latents(model)
    pixels: Axes = {"image": ("batch", "height", "width", 3), "quality": ("batch",)}
    found = {
        "encoder": _graph(
            EncoderGraph(model), pixels, ("symbols", "hyper"), (torch.uint8, torch.int64)
        )
    }
    if model.classifier is not None:
        stride = pool_stride(model)
        windows: Axes = {"rows": ("batch", 1, f"h{stride}"), "columns": ("batch", 1, f"w{stride}")}
        found |= _tail(
            model, CLASSIFIER, ClassifierGraph(model), {**latents, **windows}, ("logits",)
        )
    if model.detector is not None:
        outputs = dense_outputs(model.detector)
        found |= _tail(model, DETECTOR, DetectorGraph(model), latents, outputs)
        parts = two_stage_graphs(model.detector)
        regions = {"box": BoxGraph, "mask": MaskGraph}
        found |= {
            f"{name}.{DETECTOR}": replace(parts[name], module=graph(model.detector).eval())
            for name, graph in regions.items()
            if name in parts
        }
    return found


def pixel_graphs(model: DicmPackage) -> dict[str, Graph]:
    """Return each tail's whole network: features straight from the front, no codec."""
    pixels: Axes = {"image": ("batch", "height", "width", 3)}
    found = {}
    if model.classifier is not None:
        stride = pool_stride(model)
        inputs = {
            **pixels,
            "rows": ("batch", 1, f"h{stride}"),
            "columns": ("batch", 1, f"w{stride}"),
        }
        found[CLASSIFIER] = _graph(
            PixelClassifierGraph(model), inputs, ("features", "logits"),
            (torch.uint8, torch.float32, torch.float32),
        )  # fmt: skip
    if model.detector is not None:
        outputs = ("features", *dense_outputs(model.detector))
        found[DETECTOR] = _graph(PixelDetectorGraph(model), pixels, outputs, (torch.uint8,))
    return found


def latents_decoder(model: DicmPackage) -> tuple[nn.Module, FeatureSpec]:
    """Return the decoder, which gives the features at 1/4 of the network that it was made for."""
    return LatentsDecoder(model), FeatureSpec(model.widths.features, 4)


def map_shapes(model: DicmPackage) -> tuple[MapShape, MapShape]:
    """Channels and stride of the profile's symbols and of its hyper-latent."""
    widths = model.widths
    if model.settings.profile == "dicm-re":
        return (
            (widths.filtered, FILTERED_STRIDE),
            (widths.filtered_hyper, FILTERED_HYPER_STRIDE),
        )
    return (widths.latents, LATENTS_STRIDE), (widths.hyper, HYPER_STRIDE)


def pool_stride(model: DicmPackage) -> int:
    """Stride of the last stage, which the classifier averages."""
    return 32 if model.settings.backbone == "resnet50" else 16


def _latents(model: DicmPackage) -> Axes:
    return map_axes(*map_shapes(model))


def _tail(
    model: DicmPackage, name: str, answer: nn.Module, inputs: Axes, outputs: tuple[str, ...]
) -> dict[str, Graph]:
    """A tail's two graphs: its features alone, and features and dense outputs."""
    dtypes = INTEGERS + (torch.float32,) * (len(inputs) - len(INTEGERS))
    return {
        f"tap.{name}": _graph(TapGraph(model), inputs, ("features",), dtypes),
        f"answer.{name}": _graph(answer, inputs, ("features", *outputs), dtypes),
    }


def _graph(
    module: nn.Module, inputs: Axes, outputs: tuple[str, ...], dtypes: tuple[torch.dtype, ...]
) -> Graph:
    return Graph(module.eval(), inputs, outputs, dict(zip(inputs, dtypes, strict=True)))


class EncoderGraph(nn.Module):
    """uint8 image and quality to latents."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__()
        self.codec = model.codec

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 and (N,) int64 to int32 symbols and hyper-latent."""
        latents = self.codec.encode(image.permute(0, 3, 1, 2).float(), quality)
        return latents.symbols.to(torch.int32), latents.hyper.to(torch.int32)


class LatentsDecoder(nn.Module):
    """Symbols and hyper-latent to features at 1/4."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__()
        self.codec = model.codec

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Map float latents and (N,) int64 qualities to features."""
        features: Tensor = self.codec.decode(symbols, hyper, quality)
        return features


class TapGraph(nn.Module):
    """Integer latents to features at 1/4."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__()
        self.codec = model.codec

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map int32 latents and (N,) int64 qualities to features; what else comes is not read."""
        symbols, hyper, quality, *_ = inputs
        return (self.codec.decode(symbols.float(), hyper.float(), quality),)


class ClassifierGraph(TapGraph):
    """Integer latents to features and class logits."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__(model)
        if model.classifier is None:
            raise ValueError("expected a network with a classifier")
        self.classifier, self._stages = model.classifier, model.stages

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features and logits (N, classes); the average is weighted by rows and columns."""
        (features,) = super().forward(*inputs)
        return self.answers(features, *inputs[3:])

    def answers(self, features: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        """Return what the call does, from features."""
        last = self._stages(features)[-1]
        pooled = torch.matmul(torch.matmul(rows[:, None], last), columns[:, None].transpose(2, 3))
        return features, self.classifier(pooled)


class DetectorGraph(TapGraph):
    """Integer latents to features, pyramid, objectness and deltas."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__(model)
        if model.detector is None:
            raise ValueError("expected a network with a detector")
        self.detector, self._stages = model.detector, model.stages

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features and what ``dense_outputs`` names."""
        (features,) = super().forward(*inputs)
        return self.answers(features)

    def answers(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what the call does, from features."""
        pooled = len(self.detector.strides)
        levels = list(self.detector.pyramid(self._stages(features)[-pooled:]).values())
        objectness, deltas = self.detector.rpn.head(levels)
        return (features, *levels[:pooled], *objectness, *deltas)


class PixelClassifierGraph(ClassifierGraph):
    """uint8 image, rows and columns to what ``ClassifierGraph`` returns."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W, 3) and the weights of the average to features and logits."""
        image, rows, columns = inputs
        return self.answers(self.codec.front(image.permute(0, 3, 1, 2).float()), rows, columns)


class PixelDetectorGraph(DetectorGraph):
    """uint8 image to what ``DetectorGraph`` returns."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Map (N, H, W, 3) to features, pyramid, objectness and deltas."""
        (image,) = inputs
        return self.answers(self.codec.front(image.permute(0, 3, 1, 2).float()))


# Parameters of a graph must have the names that the package's weights have: the graphs of
# ``two_stage_graphs`` with the whole detector inside.


class BoxGraph(nn.Module):
    """Pooled regions (K, C, 7, 7) to class logits and box deltas."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Return (K, 1 + classes) and (K, 4 (1 + classes)), background first."""
        heads = self.detector.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        return logits, deltas


class MaskGraph(nn.Module):
    """Pooled regions (K, C, 14, 14) to one mask a class."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, regions: Tensor) -> tuple[Tensor]:
        """Return (K, 1 + classes, 28, 28) logits, background first."""
        heads = self.detector.roi_heads
        return (heads.mask_predictor(heads.mask_head(regions)),)
