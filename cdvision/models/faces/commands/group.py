"""`cdvision train faces`: all stages of the face models, and their packages."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.models.faces.commands.stages import (
    generator,
    hsc,
    inversion,
    rows,
    score,
    style_layers,
    trunk,
)

LICENCE = "Apache-2.0, for what is not bound by the terms of the training faces"


@click.command()
@click.argument("codec_run", metavar="CODEC", type=EXISTING)
@click.argument("faces", type=EXISTING)
@click.option("--start", required=True, help="The inversion run or package it was trained on.")
@click.option("--score", type=EXISTING, help="Run of `score`, where it is another one.")
@click.option("--labels", type=EXISTING, required=True, help="csv: file, split, 0/1 attributes.")
@click.option("-o", "--out", type=Path, required=True, help="Folder of the package.")
@click.option("--name", help="Of the model (default: its profile).")
@click.option("--provenance", type=EXISTING, help="JSON list of parts and initial weights.")
@click.option("--metrics", type=EXISTING, help="JSON list of measured figures for the card.")
@click.option(
    "--limits",
    multiple=True,
    metavar="TEXT",
    help="What the model does not do well, for the card; may be repeated.",
)
def package(
    codec_run: Path,
    faces: Path,
    start: str,
    score: Path | None,
    labels: Path,
    out: Path,
    name: str | None,
    provenance: Path | None,
    metrics: Path | None,
    limits: tuple[str, ...],
) -> None:
    """Build a face model's package: tables, proof, calibration on held-out FACES, graphs, card."""
    import torch

    from cdvision.building.package_builder import PackageFacts
    from cdvision.models.faces.package_builder import FaceFacts, build_faces
    from cdvision.models.faces.training.calibrate import calibrate
    from cdvision.models.faces.training.face_bank import read_face_banks
    from cdvision.models.faces.training.networks import assemble_faces

    model, records = assemble_faces(codec_run, start, score)
    _, held_out = read_face_banks(
        faces, labels, resolution=model.widths.resolution, device=torch.device("cpu")
    )
    names = FaceFacts(
        name or model.settings.profile,
        f"Faces of {model.widths.resolution} pixels: attributes from the first bytes, a picture "
        "from all.",
        LICENCE,
        () if provenance is None else tuple(json.loads(provenance.read_text(encoding="utf-8"))),
        calibrate(model, model.codec.build_coder(), held_out),
    )
    measured = () if metrics is None else tuple(json.loads(metrics.read_text(encoding="utf-8")))
    training = records | ({"limits": list(limits)} if limits else {})
    facts = PackageFacts({"attributes": held_out.names}, training, measured)
    card = build_faces(model, out, names, facts)
    click.echo(f"{out}: {card.name}, {', '.join(card.tasks)}")


@click.group()
def faces() -> None:
    """Train the face models, stage by stage; a command started again resumes.

    generator (adversarial, wants a GPU) → trunk (attributes) → inversion → score. Without a GPU,
    leave `generator` out and give `inversion` --tune-generator.
    """


for command in (generator, trunk, inversion, rows, score, hsc, style_layers, package):
    faces.add_command(command)
