"""How large a two-stage detector on a backbone is: the arguments that build it again later."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cdvision.heads.two_stage.network import TwoStageDetector, build_two_stage_detector
from cdvision.models.dicm.training.models import STAGES
from cdvision.models.dicm.training.options import DetectorShape

SMALLEST_ANCHOR = 8  # times the finest stride


def detector_arguments(shape: DetectorShape, backbone: str, classes: int) -> dict[str, Any]:
    """Return the keyword arguments of `build_two_stage_detector`; a run's record keeps them."""
    channels, strides = STAGES[backbone]
    used = [i for i, stride in enumerate(strides) if stride >= shape.finest]
    kept = [strides[i] for i in used]
    return {
        "classes": classes,
        "channels": [channels[i] for i in used],
        "strides": kept,
        "out_channels": shape.width,
        "representation": shape.representation,
        "mask_channels": [shape.width] * shape.masks or None,
        "anchor_sizes": [SMALLEST_ANCHOR * stride for stride in (*kept, 2 * kept[-1])],
    }


def build_detector(shape: DetectorShape, arguments: dict[str, Any]) -> TwoStageDetector:
    """Build it with the sampling that training uses."""
    return build_two_stage_detector(**arguments, batch_size_per_image=shape.samples)


def shape_record(shape: DetectorShape, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what ``training.json`` keeps."""
    return {"shape": asdict(shape), "arguments": arguments}
