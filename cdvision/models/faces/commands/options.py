"""The options that all commands of the face models take, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cdvision.cli.training_options import plan_options

if TYPE_CHECKING:
    from cdvision.models.faces.training.face_bank import FaceBank
    from cdvision.models.faces.training.networks import FaceNetworks
    from cdvision.training.stage_run import Plan

Command = TypeVar("Command", bound=Callable[..., Any])


EXISTING = click.Path(exists=True, path_type=Path)


SMOKE_BATCH, SMOKE_FACES, SMOKE_PHOTOS = 4, 24, 16


def face_options(*, minutes: float, batch: int) -> Callable[[Command], Command]:
    """Add the options that every stage of the face models takes."""

    def decorate(function: Command) -> Command:
        for option in (
            click.option(
                "--start", help="Finished run of an earlier stage, or a package (folder, name)."
            ),
            click.option("--labels", type=EXISTING, help="csv: file, split, 0/1 attributes."),
            plan_options(minutes=minutes, batch=batch),
            click.argument("faces", type=EXISTING),
        ):
            function = option(function)
        return function

    return decorate


_RATE = click.option("--learning-rate", type=float, help="Default: the stage's own.")


_WEIGHTS = click.option(
    "--initial-weights", type=EXISTING, help="Folder with the ImageNet weights of the trunk."
)


def banks(options: dict[str, Any], networks: FaceNetworks, plan: Plan) -> tuple[FaceBank, FaceBank]:
    """Read the faces to train on and those held out."""
    from cdvision.models.faces.training.face_bank import read_face_banks

    return read_face_banks(
        options["faces"],
        options["labels"],
        resolution=networks.widths.resolution,
        device=plan.device,
        limit=SMOKE_FACES if options["smoke"] else None,
    )


def run(stage: Any, options: dict[str, Any], plan: Plan) -> None:
    """Train, and say where the result lies."""
    from cdvision.training.stage_run import run_stage

    out: Path = options["out"]
    run_stage(stage, out, plan)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


def finished_networks(options: dict[str, Any]) -> FaceNetworks:
    """Return the networks of --start, or tiny random ones for a smoke test."""
    from cdvision.models.faces.training.networks import FaceNetworks, load_face_networks
    from cdvision.models.faces.widths import FACE_TINY

    if options["start"] is not None:
        return load_face_networks(options["start"])
    if not options["smoke"]:
        raise click.UsageError("expected --start: the run whose encoder gives the rows")
    return FaceNetworks(FACE_TINY)
