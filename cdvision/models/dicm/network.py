"""`dicm-re` and `dicm` with their heads, as one network that a package holds.

What a package cannot know from its weights alone (profile, backbone, classes, the detector's
widths) stands in the metadata of its safetensors file, as JSON.
"""

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
from cdvision.models.dicm.codec import Dicm, DicmCodec, DicmRe
from cdvision.models.dicm.widths import DicmWidths, backbone_widths

PROFILES = ("dicm-re", "dicm")
SETTINGS_KEY = "cdvision.dicm"


@dataclass(frozen=True)
class DicmSettings:
    """What a package's network is built from.

    Attributes:
        profile: ``"dicm-re"`` or ``"dicm"``.
        backbone: ``"resnet50"``, ``"resnet50v2"`` or, for tests, ``"tiny"``.
        classes: classes of the classifier; 0 for none.
        detector: arguments of ``build_two_stage_detector``; None for none.
    """

    profile: str
    backbone: str
    classes: int = 0
    detector: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ModelError(f"dicm: expected profile {' or '.join(PROFILES)}, not {self.profile}")


class DicmPackage(nn.Module):
    """Codec and heads.

    Attributes:
        codec: `DicmRe` or `Dicm`, backbone inside.
        classifier: on the average of the last stage; None where there is none.
        detector: on features and stages, as many as it has strides; None where there is none.
    """

    def __init__(self, settings: DicmSettings) -> None:
        super().__init__()
        self.settings = settings
        front, tail, channels = make_backbone(settings.backbone)
        re = DicmRe(front, tail, backbone_widths(settings.backbone))
        self.codec: DicmCodec = re if settings.profile == "dicm-re" else Dicm(re)
        self.classifier = (
            PooledClassifier(channels, classes=settings.classes) if settings.classes else None
        )
        self.detector: TwoStageDetector | None = (
            None if settings.detector is None else build_two_stage_detector(**settings.detector)
        )

    @property
    def widths(self) -> DicmWidths:
        """Channels of every part."""
        return self.codec.widths if isinstance(self.codec, DicmRe) else self.codec.re.widths

    def stages(self, features: Tensor) -> list[Tensor]:
        """Return features (N, 256, h, w) and the stages behind them, finest first."""
        tail: Any = self.codec.tail
        return [features, *tail.stages(features)]


def make_backbone(name: str, classes: int | None = None) -> tuple[nn.Module, nn.Module, int]:
    """Return front, tail and channels of the last stage, with random weights.

    Args:
        name: of the backbone.
        classes: of the tail's own classifier, which no package uses; None for none.
    """
    if name == "resnet50v2":
        from cdvision.networks.resnet50v2 import STAGE_CHANNELS, ResNet50V2Front, ResNet50V2Tail

        return ResNet50V2Front(), ResNet50V2Tail(classes), STAGE_CHANNELS[-1]
    if name == "resnet50":
        from cdvision.models.dicm.resnet50 import ResNet50Front, ResNet50Tail

        return ResNet50Front(), ResNet50Tail(classes), 2048
    if name == "tiny":
        from cdvision.models.dicm.tiny_backbone import STAGE_CHANNELS as TINY_CHANNELS
        from cdvision.models.dicm.tiny_backbone import TinyFront, TinyTail

        return TinyFront(), TinyTail(), TINY_CHANNELS[-1]
    raise ModelError(f"dicm: expected backbone resnet50 or resnet50v2, found {name!r}")


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
