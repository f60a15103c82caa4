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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.models.faces.attribute_head import AttributeHead
from cdvision.models.faces.codec import DecodedFaces, FaceCodec
from cdvision.models.faces.hsc import HscCodec
from cdvision.models.faces.inversion_encoder import (
    FaceScore,
    InversionCodes,
    InversionEncoder,
    RowRefiner,
)
from cdvision.models.faces.style_generator import StyleGenerator, to_pixels
from cdvision.models.faces.style_layers import StyleLayers, StyleLayout
from cdvision.models.faces.widths import FaceWidths, HscWidths

HSC, SFIC_STYLE = "hsc", "sfic-style"
PROFILES = (HSC, SFIC_STYLE)
SETTINGS_KEY = "cdvision.faces"


@dataclass(frozen=True)
class FaceSettings:
    """What a package's network is built from."""

    profile: str  # "hsc" or "sfic-style"
    widths: Mapping[str, Any]  # fields of FaceWidths
    codec: Mapping[str, Any]  # fields of HscWidths or of StyleLayout
    fixed_noise: bool = False  # of the generator
    refined: bool = False  # the sender refines rows out of F

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ModelError(f"faces: expected profile {' or '.join(PROFILES)}, not {self.profile}")

    def make_codec(self) -> FaceCodec:
        """Return the profile's codec, with random weights."""
        values: dict[str, Any] = {  # JSON knows no tuples
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.codec.items()
        }
        if self.profile == HSC:
            return HscCodec(HscWidths(**values))
        return StyleLayers(StyleLayout(**values))


class FacePackage(nn.Module):
    """Encoder, codec, attribute head, generator, and the score that tells faces from the rest."""

    def __init__(self, settings: FaceSettings) -> None:
        super().__init__()
        self.settings = settings
        self.widths = widths = FaceWidths(**settings.widths)
        self.encoder = InversionEncoder(widths)
        self.refiner = RowRefiner(widths) if settings.refined else None
        self.codec = settings.make_codec()
        self.head = AttributeHead(widths, use_feature=self.codec.sends_feature)
        self.generator = StyleGenerator(widths, fixed_noise=settings.fixed_noise)
        self.score = FaceScore(self.encoder.pooled_size)

    def encode(self, image: Tensor, quality: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Map faces (N, 3, R, R) RGB 0..255 to the integers of each layer, and scores (N,)."""
        codes: InversionCodes = self.encoder(image)
        if self.refiner is not None:
            codes = codes._replace(rows=self.refiner(codes.rows, codes.feature))
        return self.codec.encode(codes, quality), self.score(codes.pooled)

    def attributes(self, faces: DecodedFaces) -> Tensor:
        """Return logits (N, attributes)."""
        logits: Tensor = self.head(faces.rows)
        if faces.feature is None:
            return logits
        feature, arrived = faces.feature
        # A product, not a choice: one dense graph serves faces with and without F.
        return logits + arrived.float()[:, None] * self.head.from_feature(feature)

    def pictures(self, faces: DecodedFaces) -> Tensor:
        """Return pictures (N, 3, R, R), 0..255, not rounded."""
        feature = None
        if faces.feature is not None:
            sent, arrived = faces.feature
            # Where F is missing the generator goes on with its own: what rows alone would draw.
            own = self.generator.activation(faces.rows)
            feature = torch.where(arrived[:, None, None, None], sent, own)
        return to_pixels(self.generator.synthesise(faces.rows, feature))


def save_face_weights(model: FacePackage, path: Path) -> None:
    """Write the weights as fp16 safetensors, settings in their metadata."""
    # Half the bytes of a package, of which the repository keeps every version.
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
