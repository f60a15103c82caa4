"""The dense graphs of a face model: encoder, rows alone, attributes, picture.

Attributes have a second graph, for streams of which the base layer alone has arrived.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from cdvision.models.faces.codec import DecodedFaces
from cdvision.models.faces.network import FacePackage, load_face_weights
from cdvision.networks.graphs import Axes, Graph
from cdvision.package.graph_names import BASE, LAYER_COUNT, QUALITY

ATTRIBUTES, GENERATOR = "attributes", "generator"  # names of the tails
load = load_face_weights  # what the registry asks of every family's graphs


def graphs(model: FacePackage) -> dict[str, Graph]:
    """Return every graph by name."""
    side = model.widths.resolution
    latents: Axes = {name: ("batch", *shape) for name, shape in model.codec.shapes.items()}
    integers = dict.fromkeys(latents, torch.int32)
    counted: Axes = {**latents, LAYER_COUNT: ("batch",), QUALITY: ("batch",)}
    counted_types = integers | dict.fromkeys((LAYER_COUNT, QUALITY), torch.int64)
    base = next(iter(latents))

    def receiver(kind: type[FacePackage], *outputs: str) -> Graph:
        return Graph(_as(kind, model), counted, outputs, counted_types)

    return {
        "encoder": Graph(
            _as(FaceEncoderGraph, model),
            {"image": ("batch", side, side, 3), QUALITY: ("batch",)},
            (*latents, "score"),
            {"image": torch.uint8, QUALITY: torch.int64},
        ),
        f"tap.{ATTRIBUTES}": receiver(RowsGraph, "features"),
        f"tap.{GENERATOR}": receiver(RowsGraph, "features"),
        f"answer.{ATTRIBUTES}": receiver(AttributesGraph, "features", "logits"),
        f"{BASE}.{ATTRIBUTES}": Graph(
            _as(BaseAttributesGraph, model),
            {base: latents[base], QUALITY: ("batch",)},
            ("features", "logits"),
            {base: torch.int32, QUALITY: torch.int64},
        ),
        f"answer.{GENERATOR}": receiver(PictureGraph, "features", "image"),
    }


# Parameters of a graph must have the names that the package's weights have: each graph is the
# package itself with another ``forward``.


class FaceEncoderGraph(FacePackage):
    """uint8 faces and qualities to every layer's integers, and the scores of being a face."""

    def forward(self, image: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map (N, R, R, 3) uint8 and (N,) int64 to int32 layers and float32 scores."""
        latents, score = self.encode(image.permute(0, 3, 1, 2).float(), quality)
        return (*(latent.to(torch.int32) for latent in latents.values()), score)


class RowsGraph(FacePackage):
    """Integer layers, their number and the quality to W+ rows, as (N, rows * style, 1, 1)."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return features, and what else the graph tells."""
        *layers, count, quality = inputs
        named = zip(self.codec.shapes, layers, strict=True)
        faces = self.codec.decode({name: x.float() for name, x in named}, count, quality)
        return (_column(faces), *self.told(faces))

    def told(self, faces: DecodedFaces) -> tuple[Tensor, ...]:
        """Return nothing beside the rows."""
        return ()


class AttributesGraph(RowsGraph):
    """Integer layers to rows and attribute logits (N, attributes)."""

    def told(self, faces: DecodedFaces) -> tuple[Tensor, ...]:
        """Return the logits."""
        return (self.attributes(faces),)


class PictureGraph(RowsGraph):
    """Integer layers to rows and pictures (N, R, R, 3) uint8."""

    def told(self, faces: DecodedFaces) -> tuple[Tensor, ...]:
        """Return the pictures."""
        return (self.pictures(faces).round().to(torch.uint8).permute(0, 2, 3, 1),)


class BaseAttributesGraph(FacePackage):
    """Integers of the base layer to rows and attribute logits."""

    def forward(self, base: Tensor, quality: Tensor) -> tuple[Tensor, ...]:
        """Map int32 integers and (N,) int64 to features and logits (N, attributes)."""
        faces = self.codec.decode_base(base.float(), quality)
        return _column(faces), self.attributes(faces)


def _column(faces: DecodedFaces) -> Tensor:
    return faces.rows.flatten(1)[:, :, None, None]


def _as(kind: type[FacePackage], model: FacePackage) -> FacePackage:
    """Return a package's networks under another ``forward``; they are shared, not copied."""
    view = copy(model)
    view.__class__ = kind
    return view.eval()
