"""All networks of a face model, as one network that a package holds.

::

    image ─ inversion encoder ─▶ rows, F (─ refiner ─▶ rows) ─ codec ─▶ layers of integers
    layers ─ codec ─▶ rows', F' ─┬─ attribute head ─▶ 40 logits
                                 └─ generator ─▶ picture

What a package cannot know from its weights alone stands in the metadata of its safetensors file,
as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.models.faces.attribute_head import FEATURE_CELLS, AttributeHead
from cdvision.models.faces.face_score import FaceScore
from cdvision.models.faces.hsc import HscCodec
from cdvision.models.faces.hsc_widths import HscWidths
from cdvision.models.faces.inversion_encoder import InversionCodes, InversionEncoder
from cdvision.models.faces.resize_area import resize_area
from cdvision.models.faces.row_refiner import RowRefiner
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.style_layers import StyleLayers, StyleLayout
from cdvision.models.faces.widths import FaceWidths

HSC, SFIC_STYLE = "hsc", "sfic-style"
PROFILES = (HSC, SFIC_STYLE)
SETTINGS_KEY = "cdvision.faces"


@dataclass(frozen=True)
class FaceSettings:
    """What a package's network is built from.

    Attributes:
        profile: ``"hsc"`` or ``"sfic-style"``.
        widths: fields of ``FaceWidths``.
        codec: fields of ``HscWidths`` or of ``StyleLayout``.
        fixed_noise: of the generator.
        refined: the sender refines rows out of F.
    """

    profile: str
    widths: Mapping[str, Any]
    codec: Mapping[str, Any]
    fixed_noise: bool = False
    refined: bool = False

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ModelError(f"faces: expected profile {' or '.join(PROFILES)}, not {self.profile}")


class DecodedFaces(NamedTuple):
    """What a receiver has of a batch.

    Attributes:
        rows: W+ rows (N, rows, style), those of missing layers predicted.
        feature: F (N, C, side, side), where the profile sends it.
        with_feature: (N, 1) 1 where it has arrived, 0 where ``feature`` means nothing.
    """

    rows: Tensor
    feature: Tensor | None
    with_feature: Tensor


class FacePackage(nn.Module):
    """Encoder, codec, attribute head, generator, and the score that tells faces from the rest."""

    def __init__(self, settings: FaceSettings) -> None:
        super().__init__()
        self.settings = settings
        self.widths = widths = FaceWidths(**settings.widths)
        self.encoder = InversionEncoder(widths)
        self.refiner = RowRefiner(widths) if settings.refined else None
        self.codec = make_codec(settings)
        self.head = AttributeHead(widths, use_feature=settings.profile == HSC)
        self.generator = StyleGenerator(widths, fixed_noise=settings.fixed_noise)
        self.score = FaceScore(self.encoder.pooled_size)

    def encode(self, image: Tensor, quality: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map faces (N, 3, R, R) RGB 0..255 to the integers of each layer, and scores (N,)."""
        codes: InversionCodes = self.encoder(image)
        if self.refiner is not None:
            codes = codes._replace(rows=self.refiner(codes.rows, codes.feature))
        if isinstance(self.codec, HscCodec):
            layers = list(self.codec.encode(codes.rows, codes.feature, quality))
        else:
            layers = self.codec.encode(codes.rows, quality)
        return layers, self.score(codes.pooled)

    def decode(self, layers: Sequence[Tensor], count: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode what has arrived.

        Args:
            layers: integers of all layers, held in float; of missing ones anything.
            count: (N,) int64, how many layers each item has, 1 or more.
            quality: (N,) int64, 0-based.
        """
        arrived = (count > 1).float()[:, None]
        if not isinstance(self.codec, HscCodec):
            return DecodedFaces(self.codec.decode(layers, count, quality), None, arrived)
        base, detail = layers
        rows = self.codec.decode_base(base, quality)
        feature = self.codec.decode_detail(detail, rows, quality)
        return DecodedFaces(rows, feature, arrived)

    def decode_base(self, base: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode the base layer alone, as ``decode`` does where no other has arrived.

        Args:
            base: integers of layer 0, held in float.
            quality: (N,) int64, 0-based.
        """
        rows = self.codec.decode_base(base, quality)
        return DecodedFaces(rows, None, torch.zeros_like(rows[:, :1, 0]))

    def attributes(self, faces: DecodedFaces) -> Tensor:
        """Return logits (N, attributes)."""
        logits: Tensor = self.head(faces.rows)
        if self.head.feature is None or faces.feature is None:
            return logits
        seen = resize_area(faces.feature, FEATURE_CELLS).flatten(1)
        corrected: Tensor = logits + faces.with_feature * self.head.feature(seen)
        return corrected

    def pictures(self, faces: DecodedFaces) -> Tensor:
        """Return pictures (N, 3, R, R), 0..255, not rounded."""
        if faces.feature is None:
            drawn = self.generator.synthesise(faces.rows)
        else:
            own = self.generator.activation(faces.rows)
            arrived = faces.with_feature[:, :, None, None] > 0
            drawn = self.generator.synthesise(faces.rows, torch.where(arrived, faces.feature, own))
        return ((drawn + 1) * 127.5).clamp(0, 255)


def make_codec(settings: FaceSettings) -> HscCodec | StyleLayers:
    """Return the codec of a profile, with random weights."""
    values: dict[str, Any] = {  # JSON knows no tuples
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.codec.items()
    }
    if settings.profile == HSC:
        return HscCodec(HscWidths(**values))
    return StyleLayers(StyleLayout(**values))


def save_face_weights(model: FacePackage, path: Path) -> None:
    """Write the weights as fp16 safetensors, settings in their metadata."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {SETTINGS_KEY: json.dumps(asdict(model.settings))})


def load_face_weights(path: Path) -> FacePackage:
    """Build a network from such a file; raises ModelError where it is none."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if SETTINGS_KEY not in metadata:
        raise ModelError(f"{path}: expected the settings of a face network in its metadata")
    try:
        model = FacePackage(FaceSettings(**json.loads(metadata[SETTINGS_KEY])))
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: these weights and their settings do not fit: {reason}") from None
    return model
