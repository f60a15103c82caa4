"""`cdvision train faces`: generator, trunk, inversion, rows and face score, each resumable."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.training_options import read_splits, train_stage
from cdvision.models.faces.commands.sources import (
    FaceRun,
    face_stage,
    finished_networks,
    perceptual_loss,
    read_banks,
    starting_networks,
)
from cdvision.models.faces.training.options import (
    FaceSource,
    GeneratorOptions,
    InversionOptions,
    NetworkOptions,
    PerceptualOptions,
    RowsOptions,
    TrunkOptions,
)

SMOKE_PHOTOS = 16


@click.command()
@face_stage(minutes=20.0, batch=64, source=NetworkOptions, options=GeneratorOptions)
def generator(
    faces: Path, out: Path, run: FaceRun, source: NetworkOptions, options: GeneratorOptions
) -> None:
    """Train the style generator on FACES (folder or tar) against a discriminator."""
    from cdvision.models.faces.training.stage_generator import GeneratorStage

    plan, networks = run.plan(), starting_networks(source, run)
    bank, _ = read_banks(faces, source, networks, run)
    train_stage(GeneratorStage(networks, bank, plan, options), out, plan)


@click.command()
@face_stage(minutes=15.0, batch=32, source=NetworkOptions, options=TrunkOptions)
def trunk(
    faces: Path, out: Path, run: FaceRun, source: NetworkOptions, options: TrunkOptions
) -> None:
    """Fine-tune the encoder's trunk on the attributes of FACES: rows that tell them."""
    from cdvision.models.faces.training.stage_trunk import TrunkStage

    plan, networks = run.plan(), starting_networks(source, run)
    banks = read_banks(faces, source, networks, run)
    train_stage(TrunkStage(networks, *banks, plan, options), out, plan)


@click.command()
@face_stage(
    minutes=30.0,
    batch=32,
    source=NetworkOptions,
    options=InversionOptions,
    pictures=PerceptualOptions,
)
def inversion(
    faces: Path,
    out: Path,
    run: FaceRun,
    source: NetworkOptions,
    options: InversionOptions,
    pictures: PerceptualOptions,
) -> None:
    """Train the inversion encoder: FACES to W+ rows and F, and to pictures again."""
    from cdvision.models.faces.training.stage_inversion import InversionStage

    plan, networks = run.plan(), starting_networks(source, run)
    banks = read_banks(faces, source, networks, run)
    loss = perceptual_loss(pictures, run)
    train_stage(InversionStage(networks, *banks, plan, loss, options), out, plan)


@click.command()
@face_stage(
    minutes=20.0, batch=8, source=FaceSource, options=RowsOptions, pictures=PerceptualOptions
)
def rows(
    faces: Path,
    out: Path,
    run: FaceRun,
    source: FaceSource,
    options: RowsOptions,
    pictures: PerceptualOptions,
) -> None:
    """Refine the rows of a finished run (--start) until the pictures of FACES look alike.

    For `sfic-style`, which sends no F. The codes of FACES are kept in the run's folder.
    """
    from cdvision.models.faces.training.face_codes import FILE, cached_codes
    from cdvision.models.faces.training.stage_rows import RowsStage

    plan, networks = run.plan(), finished_networks(source, run)
    bank, held_out = read_banks(faces, source, networks, run)
    codes = cached_codes(out / FILE, networks, bank, mirror=True)
    loss = perceptual_loss(pictures, run)
    train_stage(RowsStage(networks, bank, codes, held_out, plan, loss, options), out, plan)


@click.command()
@face_stage(minutes=0.0, batch=32, source=FaceSource)
@click.argument("photos", type=EXISTING)
@click.option("--split-table", type=EXISTING, help="csv with file and split, for PHOTOS.")
def score(
    faces: Path,
    photos: Path,
    out: Path,
    run: FaceRun,
    source: FaceSource,
    split_table: Path | None,
) -> None:
    """Fit the face / something else score of a run (--start) on FACES and on PHOTOS."""
    from cdvision.models.faces.training.fit_score import fit_score
    from cdvision.models.faces.training.networks import load_face_networks
    from cdvision.training.photo_bank import read_photos
    from cdvision.training.run_folder import RECORD, write_result

    if source.start is None:
        raise click.UsageError("expected --start: the run whose encoder is scored")
    plan, networks = run.plan(), load_face_networks(source.start).to(run.place)
    banks = read_banks(faces, source, networks, run)
    others = read_photos(photos, device=plan.device, splits=read_splits(split_table))
    found = fit_score(networks, *banks, others[: SMOKE_PHOTOS if run.smoke else None], plan)
    out.mkdir(parents=True, exist_ok=True)
    write_result(networks, out)
    record = json.loads((source.start / RECORD).read_text(encoding="utf-8"))
    record["face_score"] = found
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"faces refused {found['faces_refused']}, photos taken {found['photos_accepted']}")
