"""`cdvision train faces`: generator, trunk, inversion, rows and face score, each resumable."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.training_options import read_splits, train_stage
from cdvision.models.faces.commands.task import FaceTask, face_stage
from cdvision.models.faces.training.options import (
    GeneratorOptions,
    InversionOptions,
    NetworkOptions,
    PerceptualOptions,
    RowsOptions,
    TrunkOptions,
)

SMOKE_PHOTOS = 16


@click.command()
@face_stage(minutes=20.0, batch=64, asked=NetworkOptions, options=GeneratorOptions)
def generator(task: FaceTask, asked: NetworkOptions, options: GeneratorOptions) -> None:
    """Train the style generator on FACES (folder or tar) against a discriminator."""
    from cdvision.models.faces.training.stage_generator import GeneratorStage

    plan, networks = task.run.plan(), task.starting_networks(asked)
    bank, _ = task.banks(networks)
    train_stage(GeneratorStage(networks, bank, plan, options), task.out, plan)


@click.command()
@face_stage(minutes=15.0, batch=32, asked=NetworkOptions, options=TrunkOptions)
def trunk(task: FaceTask, asked: NetworkOptions, options: TrunkOptions) -> None:
    """Fine-tune the encoder's trunk on the attributes of FACES: rows that tell them."""
    from cdvision.models.faces.training.stage_trunk import TrunkStage

    plan, networks = task.run.plan(), task.starting_networks(asked)
    stage = TrunkStage(networks, *task.banks(networks), plan, options)
    train_stage(stage, task.out, plan)


@click.command()
@face_stage(
    minutes=30.0,
    batch=32,
    asked=NetworkOptions,
    options=InversionOptions,
    pictures=PerceptualOptions,
)
def inversion(
    task: FaceTask, asked: NetworkOptions, options: InversionOptions, pictures: PerceptualOptions
) -> None:
    """Train the inversion encoder: FACES to W+ rows and F, and to pictures again."""
    from cdvision.models.faces.training.stage_inversion import InversionStage

    plan, networks = task.run.plan(), task.starting_networks(asked)
    banks, loss = task.banks(networks), task.perceptual_loss(pictures)
    train_stage(InversionStage(networks, *banks, plan, loss, options), task.out, plan)


@click.command()
@face_stage(minutes=20.0, batch=8, options=RowsOptions, pictures=PerceptualOptions)
def rows(task: FaceTask, options: RowsOptions, pictures: PerceptualOptions) -> None:
    """Refine the rows of a finished run (--start) until the pictures of FACES look alike.

    For `sfic-style`, which sends no F. The codes of FACES are kept in the run's folder.
    """
    from cdvision.models.faces.training.face_codes import FILE, cached_codes
    from cdvision.models.faces.training.stage_rows import RowsStage

    plan, networks = task.run.plan(), task.finished_networks()
    bank, held_out = task.banks(networks)
    codes = cached_codes(task.out / FILE, networks, bank, mirror=True)
    loss = task.perceptual_loss(pictures)
    train_stage(RowsStage(networks, bank, codes, held_out, plan, loss, options), task.out, plan)


@click.command()
@face_stage(minutes=0.0, batch=32)
@click.argument("photos", type=EXISTING)
@click.option("--split-table", type=EXISTING, help="csv with file and split, for PHOTOS.")
def score(task: FaceTask, photos: Path, split_table: Path | None) -> None:
    """Fit the face / something else score of a run (--start) on FACES and on PHOTOS."""
    from cdvision.models.faces.training.fit_score import fit_score
    from cdvision.models.faces.training.networks import load_face_networks
    from cdvision.training.finished import open_finished
    from cdvision.training.photo_bank import read_photos
    from cdvision.training.run_folder import RECORD, write_result

    start, out = task.source.start, task.out
    if start is None:
        raise click.UsageError("expected --start: the run whose encoder is scored")
    plan, networks = task.run.plan(), load_face_networks(start).to(task.run.place)
    others = read_photos(photos, device=plan.device, splits=read_splits(split_table))
    others = others[: SMOKE_PHOTOS if task.run.smoke else None]
    found = fit_score(networks, *task.banks(networks), others, plan)
    out.mkdir(parents=True, exist_ok=True)
    write_result(networks, out)
    record = {**networks.facts(), **open_finished(start).record, "face_score": found}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"faces refused {found['faces_refused']}, photos taken {found['photos_accepted']}")
