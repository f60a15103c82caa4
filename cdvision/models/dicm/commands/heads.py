"""The options of `cdvision train dicm heads`, made into tasks."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from cdvision.errors import CdvisionError
from cdvision.heads.two_stage.network import build_two_stage_detector
from cdvision.models.dicm.backbones import BACKBONES
from cdvision.models.dicm.training.assemble import CLASSIFY, DETECT
from cdvision.models.dicm.training.models import CODEC, make_codec, make_redundancy, start_backbone
from cdvision.models.dicm.training.options import DetectorShape, HeadsData
from cdvision.models.dicm.training.stage4_heads import (
    ClassificationTask,
    DetectionTask,
    HeadTask,
    PixelFeatures,
    StandardisedLinear,
    StreamFeatures,
)
from cdvision.training.labelled_boxes import LabelledBank, read_labelled
from cdvision.training.labelled_classes import read_class_bank

if TYPE_CHECKING:
    import torch

    from cdvision.models.dicm.training.models import Start

SMALLEST_ANCHOR = 8  # times the finest stride


def head_tasks(
    data: HeadsData, shape: DetectorShape, start: Start, device: torch.device
) -> tuple[dict[str, HeadTask], dict[str, Any]]:
    """Return the tasks by name, and facts that a record needs to build their heads again."""
    tasks: dict[str, HeadTask] = {}
    facts: dict[str, Any] = {"features": data.features}
    if data.boxes is not None:
        labelled = read_labelled(data.boxes, data.boxes_photos)
        arguments = _detector_arguments(shape, start.backbone, len(labelled.classes))
        sides = {"short": data.short, "long": data.long}
        bank = LabelledBank(labelled.photos, **sides, device=device, with_masks=shape.masks > 0)
        # How many regions are sampled matters in training only: no part of the record.
        detector = build_two_stage_detector(**arguments, batch_size_per_image=shape.samples)
        start.fill_detector(detector)
        tasks[DETECT] = DetectionTask(detector, bank, labelled.classes)
        facts["detector"] = {"shape": asdict(shape), "arguments": arguments}
    if data.classes is not None:
        crops, classes = read_class_bank(
            data.classes,
            data.classes_photos,
            side=data.short,
            device=device,
            column=data.class_column,
        )
        classifier = StandardisedLinear(nn.Linear(start.channels, len(classes)))
        tasks[CLASSIFY] = ClassificationTask(classifier, crops, classes)
    return tasks, facts


def tail_and_features(
    features: str, start: Start, *, smoke: bool
) -> tuple[nn.Module, PixelFeatures | StreamFeatures]:
    """Return tail and features: of the backbone as it is, or behind the start's codec."""
    if features == "pixels":
        backbone = start_backbone(start)
        return backbone.tail, PixelFeatures(backbone.front)
    if not start.stage and not smoke:
        raise CdvisionError("heads: --features stream needs --start with the run of a codec")
    codec = make_codec(start) if start.stage == CODEC else make_redundancy(start)
    return codec.tail, StreamFeatures(codec)


def _detector_arguments(shape: DetectorShape, backbone: str, classes: int) -> dict[str, Any]:
    """Return the keyword arguments of `build_two_stage_detector`; a run's record keeps them."""
    channels, strides, _ = BACKBONES[backbone]
    used = [i for i, stride in enumerate(strides) if stride >= shape.finest]
    kept = [strides[i] for i in used]
    return {
        "classes": classes,
        "channels": [channels[i] for i in used],
        "strides": kept,
        "out_channels": shape.width,
        "representation": shape.representation,
        "mask_channels": [shape.width] * shape.masks or None,
        # Proposals have a level more than the backbone, twice as coarse as its last stage.
        "anchor_sizes": [SMALLEST_ANCHOR * stride for stride in (*kept, 2 * kept[-1])],
    }
