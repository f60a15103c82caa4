"""What every stage of the face models takes: faces, networks, and how long it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.training_options import OUT, RunOptions

if TYPE_CHECKING:
    from cdvision.models.faces.training.face_bank import FaceBank
    from cdvision.models.faces.training.networks import FaceNetworks
    from cdvision.models.faces.training.options import (
        FaceSource,
        NetworkOptions,
        PerceptualOptions,
    )
    from cdvision.models.faces.training.perceptual import PerceptualLoss

Command = TypeVar("Command", bound=Callable[..., Any])
SMOKE_FACES = 24


@dataclass(frozen=True)
class FaceRun(RunOptions):
    """How long, how much and where a face stage trains."""

    smoke_batch: ClassVar[int] = 4


def face_stage(*, minutes: float, batch: int, **parts: Any) -> Callable[[Command], Command]:
    """Give a command the argument FACES, `-o`, a run of that length, and its own dataclasses."""
    options = dataclass_options(**parts, run=FaceRun(minutes=minutes, batch=batch))
    faces = click.argument("faces", type=EXISTING)
    return lambda command: faces(OUT(options(command)))


def read_banks(
    faces: Path, source: FaceSource, networks: FaceNetworks, run: FaceRun
) -> tuple[FaceBank, FaceBank]:
    """Read the faces to train on and those held out."""
    from cdvision.models.faces.training.face_bank import read_face_banks

    return read_face_banks(
        faces,
        source.labels,
        resolution=networks.widths.resolution,
        device=run.place,
        limit=SMOKE_FACES if run.smoke else None,
    )


def starting_networks(source: NetworkOptions, run: FaceRun) -> FaceNetworks:
    """Return the networks that a stage trains on; tiny ones for a smoke test."""
    from cdvision.models.faces.training.starts import start_networks
    from cdvision.models.faces.widths import FACE, FACE_TINY

    asked = replace(FACE, resolution=source.resolution, trunk=source.trunk)
    return start_networks(
        start=source.start,
        trunk_weights=source.initial_weights,
        generator=source.generator,
        widths=FACE_TINY if run.smoke else asked,
    )


def finished_networks(source: FaceSource, run: FaceRun) -> FaceNetworks:
    """Return the networks of --start, or tiny random ones for a smoke test."""
    from cdvision.models.faces.training.networks import FaceNetworks, load_face_networks
    from cdvision.models.faces.widths import FACE_TINY

    if source.start is not None:
        return load_face_networks(source.start)
    if not run.smoke:
        raise click.UsageError("expected --start: a finished run of an earlier stage")
    return FaceNetworks(FACE_TINY)


def perceptual_loss(options: PerceptualOptions, run: FaceRun) -> PerceptualLoss | None:
    """Return what compares pictures; None where nothing does."""
    from cdvision.models.faces.training.perceptual import PerceptualLoss

    if options.perceptual == "none":
        return None
    if options.initial_weights is None and not run.smoke:
        raise click.UsageError("expected --initial-weights: pictures are compared on them")
    return PerceptualLoss(options.initial_weights, options.perceptual)
