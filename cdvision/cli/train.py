"""`cdvision train`: the recipes of the models in this repository."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cdvision.cli.train_average import average
from cdvision.cli.train_descriptor import descriptor
from cdvision.cli.train_dicm import dicm
from cdvision.cli.train_encoder import encoder
from cdvision.cli.train_faces import faces
from cdvision.cli.train_faces_package import package as faces_package
from cdvision.cli.train_hsc import hsc
from cdvision.cli.train_masks import add_masks, masks
from cdvision.cli.train_plan import photo_banks, place, plan_options, planned
from cdvision.cli.train_style_layers import style_layers
from cdvision.cli.train_zoo import convert_zoo


@click.group()
def train() -> None:
    """Train a model of this repository again, or on your own photos."""


train.add_command(average)
train.add_command(descriptor)
train.add_command(dicm)
train.add_command(faces)
faces.add_command(style_layers)
faces.add_command(hsc)
faces.add_command(faces_package)
train.add_command(encoder)
train.add_command(masks)
train.add_command(add_masks)
train.add_command(convert_zoo)


@train.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--initial-weights",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder with nanodet_plus_m_416.safetensors and mobilenet_v2.safetensors.",
)
@click.option("-o", "--out", type=Path, default=Path("runs/small"), show_default=True)
@click.option(
    "--split-table",
    type=click.Path(exists=True, path_type=Path),
    help="csv with columns file and split: a source named there gives its `train` rows only.",
)
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Go on from a finished run, with the whole schedule anew.",
)
@click.option("--minutes", type=float, help="Length of the run (default: the recipe's).")
@click.option("--batch", type=click.IntRange(1), help="Crops a step (default: the recipe's).")
@click.option("--learning-rate", type=float, help="Of what starts from nothing.")
@click.option("--solved-rate", type=float, help="Of what starts from a regression.")
@click.option("--pretrained-rate", type=float, help="Of the encoder's front and of the tails.")
@click.option("--seed", type=int, help="Of crops, qualities and new weights.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
def small(
    photos: tuple[Path, ...],
    initial_weights: Path,
    out: Path,
    split_table: Path | None,
    start: Path | None,
    device: str,
    **changes: Any,
) -> None:
    """Train the map of `small` on PHOTOS (folders or tars) without labels; it resumes.

    Its descriptor is computed afterwards: `cdvision train descriptor`.
    """
    from cdvision.training.recipe import Recipe
    from cdvision.training.run import train_small

    where = place(device)
    recipe = replace(Recipe(), **{k: v for k, v in changes.items() if v is not None})
    banks = photo_banks(photos, split_table, where)
    train_small(banks, initial_weights, out, recipe, where, start)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


@train.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("photos", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--initial-weights",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="As for the run.",
)
@click.option("--split-table", type=click.Path(exists=True, path_type=Path), help="As for the run.")
@plan_options(minutes=10.0, batch=8)
def receiver(
    run: Path,
    photos: tuple[Path, ...],
    initial_weights: Path,
    split_table: Path | None,
    out: Path,
    **options: Any,
) -> None:
    """Tune taps and tails of a finished RUN of `small`; no byte of any stream changes."""
    from cdvision.training.receiver import ReceiverStage
    from cdvision.training.stage_run import run_stage

    plan = planned(options, smoke_batch=2)
    banks = photo_banks(photos, split_table, plan.device)
    run_stage(ReceiverStage(initial_weights, run, banks, plan), out, plan)
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


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
    import json

    from cdvision.training.stage_run import read_record

    record = read_record(run)
    if record.get("stage") == "encoder":
        if classes is not None or metrics is not None:
            raise click.UsageError("--classes and --metrics are for runs of `train small`")
        _package_served(run, out)
        return
    from cdvision.package.builder import PackageFacts
    from cdvision.package.loader import CLASSES_FILE
    from cdvision.package.registry import DEFAULT_MODEL, model_folder
    from cdvision.package.small_builder import build_small

    names = classes or model_folder(DEFAULT_MODEL) / CLASSES_FILE
    facts = PackageFacts(
        classes=json.loads(names.read_text(encoding="utf-8")),
        training=record,
        metrics=tuple(json.loads(metrics.read_text(encoding="utf-8")) if metrics else ()),
    )
    card = build_small(run / "weights.safetensors", out, facts)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}")


def _package_served(run: Path, out: Path) -> None:
    from cdvision.package.served_builder import build_served

    card, problems = build_served(run, out)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}: features for {', '.join(card.tails)}")
    for name, reason in problems.items():
        click.echo(f"{name}: without the network's outputs: {reason}", err=True)
