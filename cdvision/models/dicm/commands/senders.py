"""`cdvision train dicm full` and `light`: the codecs that serve Detectron2's zoo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cdvision.cli.dataclass_options import dataclass_options
from cdvision.cli.training_options import OUT, PHOTOS, RunOptions, photo_groups, train_stage
from cdvision.models.dicm.training.options import SenderData, SenderOptions, StartOptions

if TYPE_CHECKING:
    from cdvision.training.finished import Finished
    from cdvision.training.photo_bank import PhotoBank

SMOKE_PHOTOS, SMOKE_SIDE = 8, 64
# The full sender codes enlarged photos, which have three times as many pixels and no more in them.
FULL_BPP = (0.03, 0.4)
RUN = RunOptions(minutes=90.0, batch=8)


@click.command()
@PHOTOS
@OUT
@dataclass_options(
    begin=StartOptions, data=SenderData, options=SenderOptions(bpp=FULL_BPP), run=RUN
)
def full(
    photos: tuple[Path, ...],
    out: Path,
    begin: StartOptions,
    data: SenderData,
    options: SenderOptions,
    run: RunOptions,
) -> None:
    """Train `dicm-re` on PHOTOS: the camera runs stem, res2 and RE on enlarged photos."""
    _train("full", photos, out, begin, data, options, run)


@click.command()
@PHOTOS
@OUT
@dataclass_options(begin=StartOptions, data=SenderData, options=SenderOptions, run=RUN)
def light(
    photos: tuple[Path, ...],
    out: Path,
    begin: StartOptions,
    data: SenderData,
    options: SenderOptions,
    run: RunOptions,
) -> None:
    """Train `dicm-light` on PHOTOS: the camera codes patches of pixels, unenlarged."""
    _train("light", photos, out, begin, data, options, run)


def _train(
    sender: str,
    photos: tuple[Path, ...],
    out: Path,
    begin: StartOptions,
    data: SenderData,
    options: SenderOptions,
    run: RunOptions,
) -> None:
    from cdvision.models.dicm.backbones import BACKBONES
    from cdvision.models.dicm.training.models import make_sender, start_from
    from cdvision.models.dicm.training.sender_stage import SenderStage

    if not (begin.start or begin.weights or run.smoke):
        raise click.UsageError(
            "expected --weights FILE or --start RUN: features of a random network are worth nothing"
        )
    plan, start = run.plan(), start_from(begin.start, begin.backbone, begin.weights)
    codec, banks = make_sender(sender, start), _banks(photos, data, run)
    channels = BACKBONES[start.backbone].channels
    stage = SenderStage(
        codec, banks, plan, options, channels=channels, start=_finished(begin.start)
    )
    train_stage(stage, out, plan, {"backbone": start.backbone, "origin": start.origin})


def _finished(source: str | None) -> Finished | None:
    from cdvision.training.finished import open_finished

    if source is None:
        return None
    found = open_finished(source)
    # A package keeps the record of its codec beside those of its heads.
    return replace(found, record={**found.record, **found.record.get("codec", {})})


def _banks(photos: tuple[Path, ...], data: SenderData, run: RunOptions) -> list[PhotoBank]:
    from cdvision.models.dicm.training.native_crops import native_bank

    groups = photo_groups(photos, data.split_table, run.place)
    if run.smoke:
        return [native_bank(group[:SMOKE_PHOTOS], sides=(SMOKE_SIDE,)) for group in groups]
    return [native_bank(group) for group in groups]
