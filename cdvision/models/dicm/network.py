"""`dicm-re` and `dicm` with their heads, as one network that a package holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdvision.errors import ModelError
from cdvision.heads.pooled_classifier import PooledClassifier
from cdvision.heads.two_stage.network import TwoStageDetector, build_two_stage_detector
from cdvision.models.dicm.backbones import BACKBONES, make_backbone
from cdvision.models.dicm.codec import Dicm, DicmCodec, redundancy_codec
from cdvision.models.dicm.light_codec import LightCodec

PROFILES = ("dicm-re", "dicm", "dicm-light")
SETTINGS_KEY = "cdvision.dicm"  # of the safetensors' metadata, where the settings stand as JSON


@dataclass(frozen=True)
class DicmSettings:
    """What a package's network is built from, beside its weights."""

    profile: str  # one of ``PROFILES``
    backbone: str  # a name of ``BACKBONES``
    classes: int = 0  # of the classifier; 0 for none
    detector: Mapping[str, Any] | None = None  # arguments of ``build_two_stage_detector``
    tail: bool = True  # False: users have the stages behind the features, and no head reads them

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ModelError(f"dicm: expected profile {' or '.join(PROFILES)}, not {self.profile}")


class DicmPackage(nn.Module):
    """Codec, backbone inside, and heads, None where there is none.

    The classifier reads the average of the last stage, the detector as many stages as it has
    strides.
    """

    def __init__(self, settings: DicmSettings) -> None:
        super().__init__()
        self.settings = settings
        shape = BACKBONES[settings.backbone]
        self.codec = make_profile(settings.profile, settings.backbone)
        if not settings.tail:
            leave_out_tail(self.codec)
        self.classifier = (
            PooledClassifier(shape.channels[-1], classes=settings.classes)
            if settings.classes
            else None
        )
        self.detector: TwoStageDetector | None = (
            None if settings.detector is None else build_two_stage_detector(**settings.detector)
        )

    @property
    def pool_stride(self) -> int:
        """Stride of the last stage, which the classifier averages."""
        return BACKBONES[self.settings.backbone].strides[-1]

    def stages(self, features: Tensor) -> list[Tensor]:
        """Return features (N, 256, h, w) and the stages behind them, finest first."""
        tail: Any = self.codec.tail
        return [features, *tail.stages(features)]


def make_profile(profile: str, backbone: str) -> DicmCodec:
    """Return a profile's codec on a backbone, with random weights."""
    front, tail = make_backbone(backbone)
    widths = BACKBONES[backbone].widths
    if profile == "dicm-light":
        return LightCodec(front, tail, widths)
    re = redundancy_codec(front, tail, widths)
    return Dicm(re) if profile == "dicm" else re


def leave_out_tail(codec: DicmCodec) -> None:
    """Take the stages behind the features away: 8.5 M weights that a user of the zoo has."""
    (codec.re if isinstance(codec, Dicm) else codec).tail = nn.Identity()


def save_package_weights(model: DicmPackage, path: Path) -> None:
    """Write the weights as fp16 safetensors, settings in their metadata."""
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {SETTINGS_KEY: json.dumps(asdict(model.settings))})


def load_package_weights(path: Path) -> DicmPackage:
    """Build a network from such a file; raises ModelError where it is none."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if SETTINGS_KEY not in metadata:
        raise ModelError(f"{path}: expected the settings of a dicm network in its metadata")
    try:
        model = DicmPackage(DicmSettings(**json.loads(metadata[SETTINGS_KEY])))
        model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: these weights and their settings do not fit: {reason}") from None
    return model
