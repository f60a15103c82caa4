"""The options of `cdvision train dicm heads`, made into tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from cdvision.errors import CdvisionError
from cdvision.models.dicm.training.detector_shape import (
    DetectorShape,
    build_detector,
    detector_arguments,
    shape_record,
)
from cdvision.models.dicm.training.models import CODEC, make_backbone, make_codec, make_redundancy
from cdvision.models.dicm.training.stage4_heads import (
    ClassificationTask,
    DetectionTask,
    HeadsStage,
    PixelFeatures,
    StreamFeatures,
)
from cdvision.models.dicm.training.standardised import StandardisedLinear
from cdvision.training.labelled_boxes import LabelledBank, read_labelled
from cdvision.training.labelled_classes import read_class_bank

if TYPE_CHECKING:
    from cdvision.models.dicm.training.models import Start
    from cdvision.training.stage_run import Plan

SMOKE = DetectorShape(width=16, representation=32, masks=1, samples=16)
SMOKE_SIDE = 64
DETECT, CLASSIFY = "detect", "classify"


def heads_stage(
    options: dict[str, Any], plan: Plan, start: Start
) -> tuple[HeadsStage, dict[str, Any]]:
    """Return the stage, and facts that a record needs to build its heads again."""
    tail, source = _source(options, start)
    tasks: dict[str, DetectionTask | ClassificationTask] = {}
    facts: dict[str, Any] = {"features": options["features"]}
    if options["boxes"]:
        tasks[DETECT], facts["detector"] = _detection(options, plan, start)
    if options["classes"]:
        tasks[CLASSIFY] = _classification(options, plan, start)
    if not tasks:
        raise CdvisionError("heads: expected --boxes JSON or --classes CSV, found neither")
    rate = {} if options["learning_rate"] is None else {"learning_rate": options["learning_rate"]}
    stage = HeadsStage(tail, source, tasks, plan, train_tail=options["train_tail"], **rate)
    return stage, facts


def _source(
    options: dict[str, Any], start: Start
) -> tuple[nn.Module, PixelFeatures | StreamFeatures]:
    """Tail and features: of the backbone as it is, or behind the start's codec."""
    if options["features"] == "pixels":
        backbone = make_backbone(start)
        return backbone.tail, PixelFeatures(backbone.front)
    if start.stage == CODEC:
        codec = make_codec(start)
        return codec.re.tail, StreamFeatures(codec)
    if not start.stage and not options["smoke"]:
        raise CdvisionError("heads: --features stream needs --start with the run of a codec")
    re = make_redundancy(start)
    return re.tail, StreamFeatures(re)


def _detection(
    options: dict[str, Any], plan: Plan, start: Start
) -> tuple[DetectionTask, dict[str, Any]]:
    shape = DetectorShape(
        width=options["width"],
        representation=options["representation"],
        finest=int(options["finest"]),
        masks=options["masks"],
        samples=options["samples"],
    )
    short, long = options["short"], options["long"]
    if options["smoke"]:
        shape, short, long = replace(SMOKE, finest=shape.finest), SMOKE_SIDE, SMOKE_SIDE
    labelled = read_labelled(options["boxes"], options["boxes_photos"])
    arguments = detector_arguments(shape, start.backbone, len(labelled.classes))
    bank = LabelledBank(
        labelled.photos, short=short, long=long, device=plan.device, with_masks=shape.masks > 0
    )
    detector = build_detector(shape, arguments)
    start.fill_detector(detector)
    return DetectionTask(detector, bank, labelled.classes), shape_record(shape, arguments)


def _classification(options: dict[str, Any], plan: Plan, start: Start) -> ClassificationTask:
    bank, classes = read_class_bank(
        options["classes"],
        options["classes_photos"],
        side=SMOKE_SIDE if options["smoke"] else options["short"],
        device=plan.device,
        column=options["class_column"],
    )
    classifier = StandardisedLinear(nn.Linear(start.channels, len(classes)))
    return ClassificationTask(classifier, bank, classes)
