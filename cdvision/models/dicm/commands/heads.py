"""The options of `cdvision train dicm heads`, made into tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from cdvision.errors import CdvisionError
from cdvision.models.dicm.training.detector_shape import (
    build_detector,
    detector_arguments,
    shape_record,
)
from cdvision.models.dicm.training.models import CODEC, make_backbone, make_codec, make_redundancy
from cdvision.models.dicm.training.options import DetectorShape, HeadsData
from cdvision.models.dicm.training.stage4_heads import (
    ClassificationTask,
    DetectionTask,
    PixelFeatures,
    StreamFeatures,
)
from cdvision.models.dicm.training.standardised import StandardisedLinear
from cdvision.training.labelled_boxes import LabelledBank, read_labelled
from cdvision.training.labelled_classes import read_class_bank

if TYPE_CHECKING:
    import torch

    from cdvision.models.dicm.training.models import Start

SMOKE = DetectorShape(width=16, representation=32, masks=1, samples=16)
DETECT, CLASSIFY = "detect", "classify"


def head_tasks(
    data: HeadsData, shape: DetectorShape, start: Start, device: torch.device
) -> tuple[dict[str, DetectionTask | ClassificationTask], dict[str, Any]]:
    """Return the tasks by name, and facts that a record needs to build their heads again."""
    tasks: dict[str, DetectionTask | ClassificationTask] = {}
    facts: dict[str, Any] = {"features": data.features}
    if data.boxes is not None:
        labelled = read_labelled(data.boxes, data.boxes_photos)
        arguments = detector_arguments(shape, start.backbone, len(labelled.classes))
        sides = {"short": data.short, "long": data.long}
        bank = LabelledBank(labelled.photos, **sides, device=device, with_masks=shape.masks > 0)
        detector = build_detector(shape, arguments)
        start.fill_detector(detector)
        tasks[DETECT] = DetectionTask(detector, bank, labelled.classes)
        facts["detector"] = shape_record(shape, arguments)
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
        backbone = make_backbone(start)
        return backbone.tail, PixelFeatures(backbone.front)
    if start.stage == CODEC:
        codec = make_codec(start)
        return codec.re.tail, StreamFeatures(codec)
    if not start.stage and not smoke:
        raise CdvisionError("heads: --features stream needs --start with the run of a codec")
    re = make_redundancy(start)
    return re.tail, StreamFeatures(re)
