"""`cdvision train dicm`: the five stages of the ResNet-50 profiles, each a resumable command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvision.cli.dataclass_options import dataclass_options
from cdvision.cli.training_options import (
    OUT,
    PHOTOS,
    RunOptions,
    photo_groups,
    train_stage,
)
from cdvision.models.dicm.training.options import (
    CodecCropOptions,
    CodecOptions,
    ContrastiveOptions,
    CropOptions,
    DetectorShape,
    HeadsData,
    HeadsOptions,
    JointOptions,
    RedundancyOptions,
    StartOptions,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cdvision.models.dicm.training.models import Start
    from cdvision.models.dicm.training.views import ViewBank
    from cdvision.training.photo_bank import PhotoBank
    from cdvision.training.plan import Plan
    from cdvision.training.stage import Stage

Command = TypeVar("Command", bound=Callable[..., Any])
SMOKE_SIDE, SMOKE_PHOTOS, SMOKE_QUEUE = 64, 8, 16


def dicm_stage(*, minutes: float, batch: int, **parts: Any) -> Callable[[Command], Command]:
    """Give a command `-o`, a start, a run of that length, and its own dataclasses."""
    run = RunOptions(minutes=minutes, batch=batch)
    options = dataclass_options(begin=StartOptions, **parts, run=run)
    return lambda command: OUT(options(command))


@click.command()
@PHOTOS
@dicm_stage(minutes=600.0, batch=256, crops=CropOptions, options=ContrastiveOptions)
def contrastive(
    photos: tuple[Path, ...],
    out: Path,
    run: RunOptions,
    begin: StartOptions,
    crops: CropOptions,
    options: ContrastiveOptions,
) -> None:
    """Stage 0: the backbone, MoCo v2 on semantic-guided crops of PHOTOS, no labels."""
    from cdvision.models.dicm.training.models import make_backbone
    from cdvision.models.dicm.training.stage0_contrastive import ContrastiveStage

    plan, start = run.plan(), _start(begin)
    options = replace(options, queue=SMOKE_QUEUE) if run.smoke else options
    backbone, views = make_backbone(start), _views(photos, crops, run)
    stage = ContrastiveStage(backbone, views, plan, options, channels=start.channels)
    _train(stage, out, plan, start)


@click.command()
@PHOTOS
@dicm_stage(minutes=30.0, batch=64, crops=CropOptions, options=RedundancyOptions)
def redundancy(
    photos: tuple[Path, ...],
    out: Path,
    run: RunOptions,
    begin: StartOptions,
    crops: CropOptions,
    options: RedundancyOptions,
) -> None:
    """Stage 1: the RE networks of `dicm-re` alone."""
    from cdvision.models.dicm.training.models import CONTRASTIVE, make_redundancy
    from cdvision.models.dicm.training.stage1_redundancy import RedundancyStage

    plan, start = run.plan(), _start(begin, needed=not run.smoke)
    if options.head_start and start.stage not in ("", CONTRASTIVE):
        raise click.UsageError(
            f"--head-start would undo the RE networks of {begin.start}: leave one of both out"
        )
    model, banks = make_redundancy(start), _banks(photos, crops, run)
    _train(RedundancyStage(model, banks, plan, options), out, plan, start)


@click.command()
@PHOTOS
@dicm_stage(minutes=240.0, batch=256, crops=CropOptions, options=JointOptions)
def joint(
    photos: tuple[Path, ...],
    out: Path,
    run: RunOptions,
    begin: StartOptions,
    crops: CropOptions,
    options: JointOptions,
) -> None:
    """Stage 2: backbone and RE together, contrastively or (--distil) by distillation."""
    from cdvision.models.dicm.training.models import make_redundancy
    from cdvision.models.dicm.training.stage2_joint import DistillationStage, JointStage

    plan, start = run.plan(), _start(begin, needed=not run.smoke)
    options = replace(options, queue=SMOKE_QUEUE) if run.smoke else options
    model = make_redundancy(start)
    if options.distil:
        banks = _banks(photos, crops, run)
        _train(DistillationStage(model, banks, plan, options), out, plan, start)
        return
    views = _views(photos, crops, run)
    _train(JointStage(model, views, plan, options, channels=start.channels), out, plan, start)


@click.command()
@PHOTOS
@dicm_stage(minutes=120.0, batch=32, crops=CodecCropOptions, options=CodecOptions)
def codec(
    photos: tuple[Path, ...],
    out: Path,
    run: RunOptions,
    begin: StartOptions,
    crops: CodecCropOptions,
    options: CodecOptions,
) -> None:
    """Stage 3: the codec of `dicm`, after `redundancy` or `joint`."""
    from cdvision.models.dicm.training.models import make_codec
    from cdvision.models.dicm.training.stage3_codec import CodecStage

    plan, start = run.plan(), _start(begin)
    model, banks = make_codec(start), _banks(photos, crops, run)
    _train(CodecStage(model, banks, plan, options), out, plan, start)


@click.command()
@dicm_stage(minutes=60.0, batch=16, data=HeadsData, shape=DetectorShape, options=HeadsOptions)
def heads(
    out: Path,
    run: RunOptions,
    begin: StartOptions,
    data: HeadsData,
    shape: DetectorShape,
    options: HeadsOptions,
) -> None:
    """Stage 4: task heads (and, on request, the tail) on features."""
    from cdvision.models.dicm.commands.heads import SMOKE, head_tasks, tail_and_features
    from cdvision.models.dicm.training.stage4_heads import HeadsStage

    plan, start = run.plan(), _start(begin)
    if run.smoke:
        data = replace(data, short=SMOKE_SIDE, long=SMOKE_SIDE)
        shape = replace(SMOKE, finest=shape.finest)
    tail, source = tail_and_features(data.features, start, smoke=run.smoke)
    tasks, facts = head_tasks(data, shape, start, plan.device)
    _train(HeadsStage(tail, source, tasks, plan, options), out, plan, start, **facts)


def _start(begin: StartOptions, *, needed: bool = False) -> Start:
    from cdvision.models.dicm.training.models import start_from

    if needed and begin.start is None and begin.weights is None:
        raise click.UsageError(
            "expected --start RUN or --weights FILE: features of a random network are worth nothing"
        )
    return start_from(begin.start, begin.backbone, begin.weights)


def _train(stage: Stage, out: Path, plan: Plan, start: Start, **facts: Any) -> None:
    train_stage(stage, out, plan, {"backbone": start.backbone, "origin": start.origin, **facts})


def _views(photos: tuple[Path, ...], crops: CropOptions, run: RunOptions) -> ViewBank:
    from cdvision.models.dicm.training.views import ViewBank

    found = [photo for group in _groups(photos, crops, run) for photo in group]
    if run.smoke:
        return ViewBank(found, SMOKE_SIDE, every=0.5, heat_side=SMOKE_SIDE)
    return ViewBank(found, crops.side)


def _banks(photos: tuple[Path, ...], crops: CropOptions, run: RunOptions) -> list[PhotoBank]:
    """Return a bank of crops a source; large sources are drawn less than their size would have."""
    from cdvision.training.photo_bank import CropPlan, PhotoBank

    side = SMOKE_SIDE if run.smoke else crops.side
    return [
        PhotoBank(group, CropPlan(sides=(side,), least=0.7, share=len(group) ** 0.6))
        for group in _groups(photos, crops, run)
    ]


def _groups(photos: tuple[Path, ...], crops: CropOptions, run: RunOptions) -> list[list[Tensor]]:
    most = SMOKE_PHOTOS if run.smoke else None
    return [group[:most] for group in photo_groups(photos, crops.split_table, run.place)]
