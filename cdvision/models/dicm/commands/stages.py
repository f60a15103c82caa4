"""`cdvision train dicm`: the five stages of the ResNet-50 profiles, each a resumable command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvision.cli.training_options import plan_options, planned, read_splits
from cdvision.models.dicm.commands.package import package

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cdvision.models.dicm.training.models import Start
    from cdvision.training.photo_bank import PhotoBank
    from cdvision.training.stage_run import Plan

Command = TypeVar("Command", bound=Callable[..., Any])
EXISTING = click.Path(exists=True, path_type=Path)
SMOKE_SIDE, SMOKE_PHOTOS, SMOKE_QUEUE = 64, 8, 16


@click.group()
def dicm() -> None:
    """Train `dicm-re` and `dicm`, stage by stage; a command started again resumes.

    contrastive (0) → redundancy (1) → joint (2) → codec (3) → heads (4). From pretrained weights,
    stage 0 may be left out and stage 2 be replaced by distillation.
    """


def _photos(function: Command) -> Command:
    split = click.option(
        "--split-table", type=EXISTING, help="csv with file and split: keeps `train` rows only."
    )
    photos = click.argument("photos", nargs=-1, required=True, type=EXISTING)
    return photos(split(function))


def _start(function: Command) -> Command:
    for option in (
        click.option(
            "--start", help="Finished run of an earlier stage, or a package (folder, name)."
        ),
        click.option(
            "--backbone",
            type=click.Choice(["resnet50", "resnet50v2"]),
            default="resnet50",
            show_default=True,
            help="Without --start.",
        ),
        click.option(
            "--weights", help="Without --start: a file, or a name of torchvision's; else random."
        ),
    ):
        function = option(function)
    return function


_SIDE = click.option("--side", type=click.IntRange(64), help="Pixels of a square crop.")
_QUEUE = click.option("--queue", type=click.IntRange(2), default=65_536, show_default=True)
_RATE = click.option("--learning-rate", type=float, help="Default: the paper's.")
_TARGETS = click.option(
    "--bpp",
    type=(float, float),
    help="Steer quality 1 and 8 to these bits per pixel, the others between (default: fixed "
    "multipliers).",
)


@dicm.command()
@_photos
@_start
@plan_options(minutes=600.0, batch=256)
@_SIDE
@_QUEUE
@_RATE
def contrastive(**options: Any) -> None:
    """Stage 0: the backbone, MoCo v2 on semantic-guided crops of PHOTOS, no labels."""
    from cdvision.models.dicm.training.models import make_backbone
    from cdvision.models.dicm.training.stage0_contrastive import ContrastiveStage

    plan, start = planned(options, smoke_batch=2), _begin(options)
    stage = ContrastiveStage(
        make_backbone(start),
        _views(options, plan),
        plan,
        channels=start.channels,
        queue=_queue(options),
        **_given(options, "learning_rate"),
    )
    _run(stage, options, plan, start)


@dicm.command()
@_photos
@_start
@plan_options(minutes=30.0, batch=64)
@_SIDE
@_TARGETS
@_RATE
@click.option("--feature-losses", is_flag=True, help="Errors of f2 and the stages behind, not L1.")
@click.option("--head-start", is_flag=True, help="Begin as principal components, not at random.")
def redundancy(**options: Any) -> None:
    """Stage 1: the RE networks of `dicm-re` alone."""
    from cdvision.models.dicm.training.models import CONTRASTIVE, make_redundancy
    from cdvision.models.dicm.training.stage1_redundancy import RedundancyStage

    plan, start = planned(options, smoke_batch=2), _begin(options)
    _require_weights(start, options)
    if options["head_start"] and start.stage not in ("", CONTRASTIVE):
        raise click.UsageError(
            f"--head-start would undo the RE networks of {options['start']}: leave one of both out"
        )
    stage = RedundancyStage(
        make_redundancy(start),
        _crops(options, plan, side=224),
        plan,
        feature_losses=options["feature_losses"],
        targets=_targets(options),
        head_start=options["head_start"],
        **_given(options, "learning_rate"),
    )
    _run(stage, options, plan, start)


@dicm.command()
@_photos
@_start
@plan_options(minutes=240.0, batch=256)
@_SIDE
@_QUEUE
@_TARGETS
@_RATE
@click.option("--distil", is_flag=True, help="Towards the network it began as, not InfoNCE.")
def joint(**options: Any) -> None:
    """Stage 2: backbone and RE together, contrastively or (--distil) by distillation."""
    from cdvision.models.dicm.training.models import make_redundancy
    from cdvision.models.dicm.training.stage2_joint import DistillationStage, JointStage

    plan, start = planned(options, smoke_batch=2), _begin(options)
    _require_weights(start, options)
    common = {"targets": _targets(options), **_given(options, "learning_rate")}
    stage: DistillationStage | JointStage
    if options["distil"]:
        crops = _crops(options, plan, side=224)
        stage = DistillationStage(make_redundancy(start), crops, plan, **common)
    else:
        bank, queue = _views(options, plan), _queue(options)
        model = make_redundancy(start)
        stage = JointStage(model, bank, plan, channels=start.channels, queue=queue, **common)
    _run(stage, options, plan, start)


@dicm.command()
@_photos
@_start
@plan_options(minutes=120.0, batch=32)
@_SIDE
@_TARGETS
@_RATE
@click.option("--normalised", is_flag=True, help="Errors over variance, not the paper's weights.")
def codec(**options: Any) -> None:
    """Stage 3: the codec of `dicm`, after `redundancy` or `joint`."""
    from cdvision.models.dicm.training.models import make_codec
    from cdvision.models.dicm.training.stage3_codec import CodecStage

    plan, start = planned(options, smoke_batch=2), _begin(options)
    stage = CodecStage(
        make_codec(start),
        _crops(options, plan, side=256, multiple=64),
        plan,
        normalised=options["normalised"],
        targets=_targets(options),
        **_given(options, "learning_rate"),
    )
    _run(stage, options, plan, start)


@dicm.command()
@_photos
@_start
@plan_options(minutes=60.0, batch=16)
@_SIDE
@_RATE
def exactness(**options: Any) -> None:
    """Measure what exact entropy coding costs in bits: on y2 of a run of `codec`, or y1 before it.

    Integer networks and the paper's float transformers learn side by side on the same latents;
    `training.json` keeps bits per pixel of both. A run of `redundancy` or `joint` has no y2 yet.
    """
    from cdvision.models.dicm.training.exactness import ExactnessStage
    from cdvision.models.dicm.training.models import (
        CODEC,
        CONTRASTIVE,
        HEADS,
        make_codec,
        make_redundancy,
    )

    plan, start = planned(options, smoke_batch=2), _begin(options)
    if start.stage in ("", CONTRASTIVE, HEADS):
        raise click.UsageError("--start: expected a run of `redundancy`, `joint` or `codec`")
    model = make_codec(start) if start.stage == CODEC else make_redundancy(start)
    crops = _crops(options, plan, side=256, multiple=64)
    stage = ExactnessStage(model, crops, plan, **_given(options, "learning_rate"))
    _run(stage, options, plan, start)
    click.echo(f"exactness costs {100 * stage.watched()['cost']:+.2f} % of the bits")


@dicm.command()
@_start
@plan_options(minutes=60.0, batch=16)
@_RATE
@click.option(
    "--features",
    type=click.Choice(["pixels", "stream"]),
    default="stream",
    show_default=True,
    help="Features as the front gives them, or as they arrive at random qualities.",
)
@click.option("--train-tail", is_flag=True, help="Fine-tune the tail too.")
@click.option("--boxes", type=EXISTING, help="COCO-format json, for detection (and masks).")
@click.option("--boxes-photos", type=EXISTING, multiple=True, help="Its photos: folder or tar.")
@click.option("--classes", type=EXISTING, help="csv with file and a class, for classification.")
@click.option("--classes-photos", type=EXISTING, multiple=True, help="Its photos: folder or tar.")
@click.option("--class-column", default="imagenet_class", show_default=True)
@click.option("--short", type=int, default=256, show_default=True, help="Pixels, short side.")
@click.option("--long", type=int, default=384, show_default=True, help="Pixels, long side.")
@click.option("--width", type=int, default=256, show_default=True, help="Pyramid channels.")
@click.option("--representation", type=int, default=1024, show_default=True, help="Of the boxes.")
@click.option("--finest", type=click.Choice(["4", "8"]), default="4", show_default=True)
@click.option("--masks", type=int, default=4, show_default=True, help="Convolutions; 0: none.")
@click.option("--samples", type=int, default=512, show_default=True, help="RoIs an image.")
def heads(**options: Any) -> None:
    """Stage 4: task heads (and, on request, the tail) on features."""
    from cdvision.models.dicm.commands.heads import heads_stage

    plan, start = planned(options, smoke_batch=2), _begin(options)
    stage, facts = heads_stage(options, plan, start)
    _run(stage, options, plan, start, **facts)


def _run(stage: Any, options: dict[str, Any], plan: Plan, start: Start, **facts: Any) -> None:
    from cdvision.training.stage_run import run_stage

    out: Path = options["out"]
    run_stage(stage, out, plan, {"backbone": start.backbone, "origin": start.origin, **facts})
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


def _begin(options: dict[str, Any]) -> Start:
    from cdvision.models.dicm.training.models import start_from

    return start_from(options["start"], options["backbone"], options["weights"])


def _require_weights(start: Start, options: dict[str, Any]) -> None:
    if start.stage == "" and start.weights is None and not options["smoke"]:
        raise click.UsageError(
            "expected --start RUN or --weights FILE: features of a random network are worth nothing"
        )


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _queue(options: dict[str, Any]) -> int:
    return SMOKE_QUEUE if options["smoke"] else int(options["queue"])


def _targets(options: dict[str, Any]) -> tuple[float, ...] | None:
    from cdvision.training.rate_control import targets_between

    return targets_between(*options["bpp"]) if options["bpp"] else None


def _side(options: dict[str, Any], default: int, multiple: int) -> int:
    side = SMOKE_SIDE if options["smoke"] else options["side"] or default
    if side % multiple:
        raise click.UsageError(f"--side: expected a multiple of {multiple}, found {side}")
    return int(side)


def _views(options: dict[str, Any], plan: Plan) -> Any:
    from cdvision.models.dicm.training.views import ViewBank

    photos = [photo for group in _groups(options, plan.device) for photo in group]
    side = _side(options, 224, 32)
    if options["smoke"]:
        return ViewBank(photos, side, every=0.5, heat_side=SMOKE_SIDE)
    return ViewBank(photos, side)


def _crops(
    options: dict[str, Any], plan: Plan, *, side: int, multiple: int = 32
) -> list[PhotoBank]:
    from cdvision.training.photo_bank import CropPlan, PhotoBank

    side = _side(options, side, multiple)
    return [
        PhotoBank(photos, CropPlan(sides=(side,), least=0.7, share=len(photos) ** 0.6))
        for photos in _groups(options, plan.device)
    ]


def _groups(options: dict[str, Any], device: torch.device) -> Sequence[Sequence[Tensor]]:
    from cdvision.errors import CdvisionError
    from cdvision.training.photo_bank import read_photos

    splits, groups = read_splits(options["split_table"]), []
    for source in options["photos"]:
        photos = read_photos(source, device=device, splits=splits)
        if not photos:
            raise CdvisionError(f"{source} holds no photo to train on")
        groups.append(photos[:SMOKE_PHOTOS] if options["smoke"] else photos)
    return groups


dicm.add_command(package)
