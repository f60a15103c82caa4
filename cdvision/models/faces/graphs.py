"""The dense graphs of a face model: encoder, rows alone, attributes, picture.

Attributes have a second graph, for streams of which the base layer alone has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cdvision.models.faces.hsc import HscCodec
from cdvision.models.faces.hsc_widths import BASE_SIDE
from cdvision.models.faces.network import DecodedFaces, FacePackage, load_face_weights
from cdvision.models.faces.receiver.hsc import BASE as BASE_LATENTS
from cdvision.models.faces.receiver.hsc import DETAIL as DETAIL_LATENTS
from cdvision.models.faces.receiver.style_layers import LAYERS as STYLE_LATENTS
from cdvision.networks.graphs import Axes, Graph
from cdvision.package.graph_names import BASE, LAYER_COUNT, QUALITY

ATTRIBUTES, GENERATOR = "attributes", "generator"  # names of the tails


def load(weights: Path) -> FacePackage:
    """Build the network from safetensors, settings in their metadata."""
    return load_face_weights(weights)


def graphs(model: FacePackage) -> dict[str, Graph]:
    """Return every graph by name."""
    side = model.widths.resolution
    pixels: Axes = {"image": ("batch", side, side, 3), "quality": ("batch",)}
    return {
        "encoder": Graph(
            _as(EncoderGraph, model),
            pixels,
            (*latent_shapes(model), "score"),
            {"image": torch.uint8, "quality": torch.int64},
        ),
        f"tap.{ATTRIBUTES}": _receiver(model, _as(TapGraph, model), "features"),
        f"tap.{GENERATOR}": _receiver(model, _as(TapGraph, model), "features"),
        f"answer.{ATTRIBUTES}": _receiver(model, _as(AttributeGraph, model), "features", "logits"),
        f"{BASE}.{ATTRIBUTES}": _base_receiver(model, _as(BaseAttributeGraph, model)),
        f"answer.{GENERATOR}": _receiver(model, _as(PictureGraph, model), "features", "image"),
    }


def latent_shapes(model: FacePackage) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's integers, by the names that its coder gives them."""
    codec = model.codec
    if not isinstance(codec, HscCodec):
        return dict(zip(STYLE_LATENTS, codec.layout.shapes, strict=True))
    widths = codec.widths
    return {
        BASE_LATENTS: (widths.base, BASE_SIDE, BASE_SIDE),
        DETAIL_LATENTS: (widths.detail, widths.detail_side, widths.detail_side),
    }


def _receiver(model: FacePackage, module: nn.Module, *outputs: str) -> Graph:
    inputs: dict[str, tuple[str | int, ...]] = {
        name: ("batch", *shape) for name, shape in latent_shapes(model).items()
    }
    types = dict.fromkeys(inputs, torch.int32) | dict.fromkeys((LAYER_COUNT, QUALITY), torch.int64)
    inputs |= {LAYER_COUNT: ("batch",), QUALITY: ("batch",)}
    return Graph(module, inputs, outputs, types)


def _base_receiver(model: FacePackage, module: nn.Module) -> Graph:
    name, shape = next(iter(latent_shapes(model).items()))
    inputs: Axes = {name: ("batch", *shape), QUALITY: ("batch",)}
    return Graph(module, inputs, ("features", "logits"), {name: torch.int32, QUALITY: torch.int64})


# Parameters of a graph must have the names that the package's weights have: each graph is the
# package itself with another ``forward``.


class EncoderGraph(FacePackage):
    """uint8 faces and qualities to every layer's integers, and the scores of being a face."""

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map (N, R, R, 3) uint8 and (N,) int64 to int32 layers and float32 scores."""
        layers, score = self.encode(image.permute(0, 3, 1, 2).float(), quality)
        return (*(layer.to(torch.int32) for layer in layers), score)


class TapGraph(FacePackage):
    """Integer layers to W+ rows, as one column (N, rows * style, 1, 1)."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features; the inputs are the layers, their number and the quality."""
        return (_column(self._received(inputs)),)

    def _received(self, inputs: Sequence[Tensor]) -> DecodedFaces:
        *layers, count, quality = inputs
        return self.decode([layer.float() for layer in layers], count, quality)


class AttributeGraph(TapGraph):
    """Integer layers to rows and attribute logits."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features and logits (N, attributes)."""
        faces = self._received(inputs)
        return _column(faces), self.attributes(faces)


class BaseAttributeGraph(FacePackage):
    """Integers of the base layer to rows and attribute logits."""

    def forward(self, base: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 integers and (N,) int64 to features and logits (N, attributes)."""
        faces = self.decode_base(base.float(), quality)
        return _column(faces), self.attributes(faces)


class PictureGraph(TapGraph):
    """Integer layers to rows and a picture."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features and pictures (N, R, R, 3) uint8."""
        faces = self._received(inputs)
        pictures = self.pictures(faces).round().to(torch.uint8)
        return _column(faces), pictures.permute(0, 2, 3, 1)


def _column(faces: DecodedFaces) -> Tensor:
    return faces.rows.flatten(1)[:, :, None, None]


def _as(kind: type[FacePackage], model: FacePackage) -> FacePackage:
    """Return a package's networks under another ``forward``; they are shared, not copied."""
    view = copy(model)
    view.__class__ = kind
    return view.eval()
