"""The dense graphs of DICM's models: encoder, features alone, and each head's dense part."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from cdvision.heads.pooled_classifier import PooledClassifier
from cdvision.heads.two_stage.graphs import dense_outputs, two_stage_graphs
from cdvision.heads.two_stage.network import TwoStageDetector
from cdvision.models.dicm.map_codec import MapCodec
from cdvision.models.dicm.map_graphs import headless_parts
from cdvision.models.dicm.network import DicmPackage, load_package_weights
from cdvision.networks.graphs import Axes, Graph, map_axes
from cdvision.networks.latent_model import HYPER_CHANNELS, HYPER_STRIDE, LATENT_STRIDE
from cdvision.package.card import FeatureSpec

CLASSIFIER, DETECTOR = "classifier", "detector"  # names of the tails
MapShape = tuple[int, int]
PIXELS: Axes = {"image": ("batch", "height", "width", 3)}
# Of every input that is no float32 number; ``rows`` and ``columns`` weigh an average.
DTYPES = {
    "image": torch.uint8, "quality": torch.int64, "symbols": torch.int32, "hyper": torch.int32,
}  # fmt: skip


load = load_package_weights  # as ``networks.graphs.load_network`` asks for it


def graphs(model: DicmPackage) -> dict[str, Graph]:
    """Return every graph by name."""
    latents = map_axes(*map_shapes(model))
    pixels = {**PIXELS, "quality": ("batch",)}
    found = {"encoder": _graph(DicmEncoderGraph(model), pixels, ("symbols", "hyper"))}
    for name, (answer, windows, outputs) in _tails(model, pixels=False).items():
        inputs = {**latents, **windows}
        found[f"tap.{name}"] = _graph(TapGraph(model), inputs, ("features",))
        found[f"answer.{name}"] = _graph(answer, inputs, ("features", *outputs))
    if isinstance(model.codec, MapCodec):
        for name, (module, extra, outputs) in headless_parts(model.codec).items():
            found[name] = _graph(module, {**latents, **extra}, outputs)
    if model.detector is not None:
        # Parameters of a graph must have the names that the package's weights have: the graphs of
        # the detector's parts, with the whole detector inside.
        for name, graph in two_stage_graphs(model.detector).items():
            if name != "dense":
                module = RegionGraph(model.detector, masks=name == "mask")
                found[f"{name}.{DETECTOR}"] = replace(graph, module=module.eval())
    return found


def pixel_graphs(model: DicmPackage) -> dict[str, Graph]:
    """Return each tail's whole network: features straight from the front, no codec."""
    return {
        name: _graph(answer, {**PIXELS, **windows}, ("features", *outputs))
        for name, (answer, windows, outputs) in _tails(model, pixels=True).items()
    }


def latents_decoder(model: DicmPackage) -> tuple[nn.Module, FeatureSpec]:
    """Return the decoder, which gives the features at 1/4 of the network that it was made for."""
    return LatentsDecoder(model), feature_spec(model)


def feature_spec(model: DicmPackage) -> FeatureSpec:
    """Return channels and stride of the features at the split point."""
    return FeatureSpec(model.codec.widths.features, 4)


def map_shapes(model: DicmPackage) -> tuple[MapShape, MapShape]:
    """Return channels and stride of the profile's symbols and of its hyper-latent."""
    widths = model.codec.widths
    if isinstance(model.codec, MapCodec):
        return (widths.filtered, LATENT_STRIDE), (HYPER_CHANNELS, HYPER_STRIDE)
    if model.settings.profile == "dicm-re":
        return (widths.filtered, 32), (widths.filtered_hyper, 128)
    return (widths.latents, 16), (widths.hyper, 64)


def _tails(
    model: DicmPackage, *, pixels: bool
) -> dict[str, tuple[nn.Module, Axes, tuple[str, ...]]]:
    """By name: what answers, its inputs beside latents or pixels, and its dense outputs."""
    tails: dict[str, tuple[nn.Module, Axes, tuple[str, ...]]] = {}
    if model.classifier is not None:
        side = model.pool_stride
        windows: Axes = {"rows": ("batch", 1, f"h{side}"), "columns": ("batch", 1, f"w{side}")}
        answer = ClassifierGraph(model, model.classifier, pixels=pixels)
        tails[CLASSIFIER] = answer, windows, ("logits",)
    if model.detector is not None:
        detect = DetectorGraph(model, model.detector, pixels=pixels)
        tails[DETECTOR] = detect, {}, dense_outputs(model.detector)
    return tails


def _graph(module: nn.Module, inputs: Axes, outputs: tuple[str, ...]) -> Graph:
    dtypes = {name: DTYPES.get(name, torch.float32) for name in inputs}
    return Graph(module.eval(), inputs, outputs, dtypes)


class CodecGraph(nn.Module):
    """Base of graphs that run a codec; weights keep the names that they have in a package."""

    def __init__(self, model: DicmPackage) -> None:
        super().__init__()
        self.codec = model.codec


class DicmEncoderGraph(CodecGraph):
    """uint8 image and quality to latents."""

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, H, W, 3) uint8 and (N,) int64 to int32 symbols and hyper-latent."""
        latents = self.codec.encode(image.permute(0, 3, 1, 2).float(), quality)
        return latents.symbols.to(torch.int32), latents.hyper.to(torch.int32)


class LatentsDecoder(CodecGraph):
    """Symbols and hyper-latent to features at 1/4."""

    def forward(self, symbols: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
        """Map float latents and (N,) int64 qualities to features."""
        return self.codec.decode(symbols, hyper, quality)


class TapGraph(CodecGraph):
    """Integer latents and quality, or with ``pixels`` a uint8 image, to features at 1/4."""

    def __init__(self, model: DicmPackage, *, pixels: bool = False) -> None:
        super().__init__(model)
        self._stages, self._pixels = model.stages, pixels

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features, and what the tail answers from them and from the inputs behind."""
        if self._pixels:
            image, *windows = inputs
            features: Tensor = self.codec.front(image.permute(0, 3, 1, 2).float())
        else:
            symbols, hyper, quality, *windows = inputs
            features = self.codec.decode(symbols.float(), hyper.float(), quality)
        return (features, *self.answers(features, *windows))

    def answers(self, features: Tensor, *windows: Tensor) -> tuple[Tensor, ...]:
        """Return the tail's dense outputs; a tap has none."""
        return ()


class ClassifierGraph(TapGraph):
    """What arrives, rows and columns to features and class logits (N, classes)."""

    def __init__(
        self, model: DicmPackage, classifier: PooledClassifier, *, pixels: bool = False
    ) -> None:
        super().__init__(model, pixels=pixels)
        self.classifier = classifier

    def answers(self, features: Tensor, *windows: Tensor) -> tuple[Tensor, ...]:
        """Return logits of the last stage's average."""
        rows, columns = windows
        last = self._stages(features)[-1]
        # The average is weighted by rows and columns, which leave the padding out.
        pooled = torch.matmul(torch.matmul(rows[:, None], last), columns[:, None].transpose(2, 3))
        return (self.classifier(pooled),)


class DetectorGraph(TapGraph):
    """What arrives to features and what ``dense_outputs`` names: pyramid, objectness, deltas."""

    def __init__(
        self, model: DicmPackage, detector: TwoStageDetector, *, pixels: bool = False
    ) -> None:
        super().__init__(model, pixels=pixels)
        self.detector = detector

    def answers(self, features: Tensor, *windows: Tensor) -> tuple[Tensor, ...]:
        """Return the levels that regions are pooled from, and the proposals' dense outputs."""
        pooled = len(self.detector.strides)
        levels = list(self.detector.pyramid(self._stages(features)[-pooled:]).values())
        objectness, deltas = self.detector.rpn.head(levels)
        # The pyramid may have a coarser level more, for proposals alone.
        return (*levels[:pooled], *objectness, *deltas)


class RegionGraph(nn.Module):
    """Pooled regions (K, C, 7, 7) to logits and deltas, or (K, C, 14, 14) to masks of each class.

    Background is first: (K, 1 + classes), (K, 4 (1 + classes)), or (K, 1 + classes, 28, 28).
    """

    def __init__(self, detector: TwoStageDetector, *, masks: bool) -> None:
        super().__init__()
        self.detector, self._masks = detector, masks

    def forward(self, regions: Tensor) -> tuple[Tensor, ...]:
        """Run one of the heads."""
        heads = self.detector.roi_heads
        if self._masks:
            return (heads.mask_predictor(heads.mask_head(regions)),)
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        return logits, deltas
