"""`cdvision train dicm`: the five stages of the ResNet-50 profiles, and their packages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import dataclass_options
from cdvision.cli.training_options import OUT, PHOTOS, RunOptions, photo_groups, train_stage
from cdvision.models.dicm.commands.package import package
from cdvision.models.dicm.commands.senders import full, light
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

Command = Callable[..., None]
SMOKE_SIDE, SMOKE_PHOTOS, SMOKE_QUEUE = 64, 8, 16
SMOKE_SHAPE = DetectorShape(width=16, representation=32, masks=1, samples=16)


@dataclass(frozen=True)
class DicmTask:
    """What a command of a stage is given."""

    out: Path  # folder of the run
    run: RunOptions
    begin: StartOptions
    photos: tuple[Path, ...] = ()  # none for heads, which have labelled photos of their own
    crops: CropOptions = field(default_factory=CropOptions)

    @property
    def side(self) -> int:
        """Pixels of a square crop."""
        return SMOKE_SIDE if self.run.smoke else self.crops.side

    def start(self, *, needed: bool = False) -> Start:
        """Return where the stage begins; ``needed`` refuses random weights, a smoke test apart."""
        from cdvision.models.dicm.training.models import start_from

        begin = self.begin
        if needed and not (begin.start or begin.weights or self.run.smoke):
            raise click.UsageError(
                "expected --start RUN or --weights FILE: features of a random network are worth "
                "nothing"
            )
        return start_from(begin.start, begin.backbone, begin.weights)

    def views(self) -> ViewBank:
        """Read the photos for contrastive learning."""
        from cdvision.models.dicm.training.views import ViewBank

        photos = [photo for group in self._groups() for photo in group]
        if self.run.smoke:
            return ViewBank(photos, self.side, every=0.5, heat_side=SMOKE_SIDE)
        return ViewBank(photos, self.side)

    def banks(self) -> list[PhotoBank]:
        """Read the photos, each source a bank."""
        from cdvision.training.photo_bank import CropPlan, PhotoBank

        # By a power below 1 large sources are drawn less often than their size says.
        return [
            PhotoBank(group, CropPlan(sides=(self.side,), least=0.7, share=len(group) ** 0.6))
            for group in self._groups()
        ]

    def train(self, stage: Stage, plan: Plan, start: Start, **facts: Any) -> None:
        """Train the stage; its record keeps the facts."""
        origin = {"backbone": start.backbone, "origin": start.origin}
        train_stage(stage, self.out, plan, {**origin, **facts})

    def _groups(self) -> list[list[Tensor]]:
        most = SMOKE_PHOTOS if self.run.smoke else None
        groups = photo_groups(self.photos, self.crops.split_table, self.run.place)
        return [group[:most] for group in groups]


def dicm_stage(*, minutes: float, batch: int, **parts: Any) -> Callable[[Command], Command]:
    """Give a command its task, of a run of that length, and dataclasses of its own.

    ``parts`` are those of `dataclass_options`; with ``crops``, the command has the argument PHOTOS.
    """
    run = RunOptions(minutes=minutes, batch=batch)
    options = dataclass_options(begin=StartOptions, **parts, run=run)
    given = ("out", "run", "begin", *(("photos", "crops") if "crops" in parts else ()))

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathered(**values: Any) -> None:
            command(DicmTask(**{name: values.pop(name) for name in given}), **values)

        read = OUT(options(gathered))
        return PHOTOS(read) if "crops" in parts else read

    return decorate


@click.group()
def dicm() -> None:
    """Train `dicm-re`, `dicm-light` and `dicm`, stage by stage; a command started again resumes.

    For Detectron2's zoo: full (`dicm-re`) or light (`dicm-light`), each one stage. The paper's:
    contrastive (0) → redundancy (1) → joint (2) → codec (3) → heads (4). From pretrained weights,
    stage 0 may be left out and stage 2 be replaced by distillation.
    """


for command in (package, full, light):
    dicm.add_command(command)


@dicm.command()
@dicm_stage(minutes=600.0, batch=256, crops=CropOptions, options=ContrastiveOptions)
def contrastive(task: DicmTask, options: ContrastiveOptions) -> None:
    """Stage 0: the backbone, MoCo v2 on semantic-guided crops of PHOTOS, no labels."""
    from cdvision.models.dicm.training.models import start_backbone
    from cdvision.models.dicm.training.stage0_contrastive import ContrastiveStage

    plan, start = task.run.plan(), task.start()
    options = replace(options, queue=SMOKE_QUEUE) if task.run.smoke else options
    backbone, views = start_backbone(start), task.views()
    stage = ContrastiveStage(backbone, views, plan, options, channels=start.channels)
    task.train(stage, plan, start)


@dicm.command()
@dicm_stage(minutes=30.0, batch=64, crops=CropOptions, options=RedundancyOptions)
def redundancy(task: DicmTask, options: RedundancyOptions) -> None:
    """Stage 1: the RE networks of `dicm-re` alone."""
    from cdvision.models.dicm.training.models import make_redundancy
    from cdvision.models.dicm.training.stage1_redundancy import RedundancyStage

    plan, start = task.run.plan(), task.start(needed=True)
    if options.head_start and start.has_redundancy:
        raise click.UsageError(
            f"--head-start would undo the RE networks of {task.begin.start}: leave one of both out"
        )
    model, banks = make_redundancy(start), task.banks()
    task.train(RedundancyStage(model, banks, plan, options), plan, start)


@dicm.command()
@dicm_stage(minutes=240.0, batch=256, crops=CropOptions, options=JointOptions)
def joint(task: DicmTask, options: JointOptions) -> None:
    """Stage 2: backbone and RE together, contrastively or (--distil) by distillation."""
    from cdvision.models.dicm.training.models import make_redundancy
    from cdvision.models.dicm.training.stage2_joint import DistillationStage, JointStage

    plan, start = task.run.plan(), task.start(needed=True)
    options = replace(options, queue=SMOKE_QUEUE) if task.run.smoke else options
    model = make_redundancy(start)
    if options.distil:
        task.train(DistillationStage(model, task.banks(), plan, options), plan, start)
        return
    stage = JointStage(model, task.views(), plan, options, channels=start.channels)
    task.train(stage, plan, start)


@dicm.command()
@dicm_stage(minutes=120.0, batch=32, crops=CodecCropOptions, options=CodecOptions)
def codec(task: DicmTask, options: CodecOptions) -> None:
    """Stage 3: the codec of `dicm`, after `redundancy` or `joint`."""
    from cdvision.models.dicm.training.models import make_codec
    from cdvision.models.dicm.training.stage3_codec import CodecStage

    plan, start = task.run.plan(), task.start()
    model, banks = make_codec(start), task.banks()
    task.train(CodecStage(model, banks, plan, options), plan, start)


@dicm.command()
@dicm_stage(minutes=60.0, batch=16, data=HeadsData, shape=DetectorShape, options=HeadsOptions)
def heads(task: DicmTask, data: HeadsData, shape: DetectorShape, options: HeadsOptions) -> None:
    """Stage 4: task heads (and, on request, the tail) on features."""
    from cdvision.models.dicm.commands.heads import head_tasks, tail_and_features
    from cdvision.models.dicm.training.stage4_heads import HeadsStage

    plan, start = task.run.plan(), task.start()
    if task.run.smoke:
        data = replace(data, short=SMOKE_SIDE, long=SMOKE_SIDE)
        shape = replace(SMOKE_SHAPE, finest=shape.finest)
    tail, source = tail_and_features(data.features, start, smoke=task.run.smoke)
    tasks, facts = head_tasks(data, shape, start, plan.device)
    task.train(HeadsStage(tail, source, tasks, plan, options), plan, start, **facts)
