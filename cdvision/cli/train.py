"""`cdvision train`: the stages of every family of models, and the packages of their runs."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.command_line import FamilyGroup

OLDEST = "small"  # whose first runs did not say of which stage they are


@click.group(cls=FamilyGroup, group="train")
def train() -> None:
    """Train a model of this repository again, or on your own photos."""


@train.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", type=Path, required=True, help="Folder of the package.")
@click.option(
    "--classes",
    type=click.Path(exists=True, path_type=Path),
    help="classes.json with the lists coco and imagenet (default: small's).",
)
@click.option(
    "--metrics",
    type=click.Path(exists=True, path_type=Path),
    help="json of `cdvision eval`, for the card.",
)
def package(run: Path, out: Path, classes: Path | None, metrics: Path | None) -> None:
    """Build a model package from a finished RUN: tables, proof, graphs, parity, card."""
    from cdvision.package.families import find_part, known_parts
    from cdvision.training.run_folder import read_record

    record = read_record(run)
    stage = record.get("stage", OLDEST)
    build = find_part("builders", stage if stage in known_parts("builders") else OLDEST)
    build(run, out, record=record, classes=classes, metrics=metrics)
