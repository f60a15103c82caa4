"""`cdvision train faces`: generator, trunk, inversion and face score, each a resumable command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.training_options import planned, read_splits
from cdvision.models.faces.commands.options import (
    _RATE,
    _WEIGHTS,
    EXISTING,
    SMOKE_BATCH,
    SMOKE_PHOTOS,
    banks,
    face_options,
    run,
)

if TYPE_CHECKING:
    from cdvision.models.faces.training.networks import FaceNetworks
    from cdvision.models.faces.training.perceptual import PerceptualLoss
    from cdvision.models.faces.widths import FaceWidths


@click.group()
def faces() -> None:
    """Train the face models, stage by stage; a command started again resumes.

    generator (adversarial, wants a GPU) → trunk (attributes) → inversion → score. Without a GPU,
    leave `generator` out and give `inversion` --tune-generator.
    """


_RESOLUTION = click.option(
    "--resolution", type=int, help="Of new networks, in pixels (default: 128)."
)
_TRUNK = click.option(
    "--trunk",
    type=click.Choice(["mobilenet_v2", "resnet50v2"]),
    help="Of new encoders (default: mobilenet_v2).",
)
_GENERATOR = click.option(
    "--generator", type=EXISTING, help="Your own StyleGAN2 as safetensors (see docs/faces.md)."
)
_PERCEPTUAL = click.option(
    "--perceptual",
    type=click.Choice(["mobilenet_v2", "resnet50v2", "none"]),
    default="mobilenet_v2",
    show_default=True,
    help="ImageNet network of the perceptual loss (its weights: --initial-weights).",
)


@faces.command()
@face_options(minutes=20.0, batch=64)
@_RESOLUTION
@_TRUNK
@_RATE
@click.option("--r1", type=float, default=1.0, show_default=True, help="Weight of R1.")
@click.option("--path", type=float, default=0.0, show_default=True, help="Of path regularisation.")
@click.option("--augment/--no-augment", "augmented", default=True, show_default=True)
def generator(**options: Any) -> None:
    """Train the style generator on FACES (folder or tar) against a discriminator."""
    from cdvision.models.faces.training.stage_generator import GeneratorStage

    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), _networks(options)
    bank, _ = banks(options, networks, plan)
    chosen = {name: options[name] for name in ("r1", "path", "augmented")}
    run(GeneratorStage(networks, bank, plan, **chosen, **_given(options)), options, plan)


@faces.command()
@face_options(minutes=15.0, batch=32)
@_RESOLUTION
@_TRUNK
@_RATE
@_WEIGHTS
@_GENERATOR
@click.option("--trunk-rate", type=float, help="Learning rate of the trunk.")
def trunk(**options: Any) -> None:
    """Fine-tune the encoder's trunk on the attributes of FACES: rows that tell them."""
    from cdvision.models.faces.training.stage_trunk import TrunkStage

    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), _networks(options)
    bank, held_out = banks(options, networks, plan)
    stage = TrunkStage(networks, bank, held_out, plan, **_given(options, "trunk_rate"))
    run(stage, options, plan)


@faces.command()
@face_options(minutes=30.0, batch=32)
@_RESOLUTION
@_TRUNK
@_WEIGHTS
@_GENERATOR
@click.option("--tune-generator", is_flag=True, help="Train the generator too.")
@click.option("--drawn", type=click.FloatRange(0, 0.9), default=0.0, help="Share of drawn faces.")
@click.option("--freeze-trunk", is_flag=True, help="Of the encoder, train the heads only.")
@click.option(
    "--freeze-encoder",
    is_flag=True,
    help="Train the generator only: codes stay, and so do codecs that were trained on them.",
)
@_PERCEPTUAL
def inversion(**options: Any) -> None:
    """Train the inversion encoder: FACES to W+ rows and F, and to pictures again."""
    from cdvision.models.faces.training.stage_inversion import InversionStage

    if options["freeze_encoder"] and not options["tune_generator"]:
        raise click.UsageError("--freeze-encoder leaves nothing to train without --tune-generator")
    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), _networks(options)
    bank, held_out = banks(options, networks, plan)
    stage = InversionStage(
        networks,
        bank,
        held_out,
        plan,
        _perceptual(options),
        tune_generator=options["tune_generator"],
        drawn=options["drawn"],
        rates=_frozen(options),
    )
    run(stage, options, plan)


@faces.command()
@face_options(minutes=20.0, batch=8)
@_RATE
@_WEIGHTS
@_PERCEPTUAL
def rows(**options: Any) -> None:
    """Refine the rows of a finished run (--start) until the pictures of FACES look alike.

    For `sfic-style`, which sends no F. The codes of FACES are kept in the run's folder.
    """
    from cdvision.models.faces.commands.options import finished_networks
    from cdvision.models.faces.training.face_codes import FILE, cached_codes
    from cdvision.models.faces.training.stage_rows import RowsStage

    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), finished_networks(options)
    bank, held_out = banks(options, networks, plan)
    codes = cached_codes(options["out"] / FILE, networks, bank, mirror=True)
    stage = RowsStage(
        networks, bank, codes, held_out, plan, _perceptual(options), **_given(options)
    )
    run(stage, options, plan)


@faces.command()
@face_options(minutes=0.0, batch=32)
@click.argument("photos", type=EXISTING)
@click.option("--split-table", type=EXISTING, help="csv with file and split, for PHOTOS.")
def score(**options: Any) -> None:
    """Fit the face / something else score of a run (--start) on FACES and on PHOTOS."""
    import json

    from cdvision.models.faces.training.fit_score import fit_score
    from cdvision.training.finished import open_finished
    from cdvision.training.photo_bank import read_photos
    from cdvision.training.stage_run import RECORD, write_result

    if options["start"] is None:
        raise click.UsageError("expected --start: the run whose encoder is scored")
    plan = planned(options, smoke_batch=SMOKE_BATCH)
    networks = _networks(options).to(plan.device)
    bank, held_out = banks(options, networks, plan)
    splits = read_splits(options["split_table"])
    photos = read_photos(options["photos"], device=plan.device, splits=splits)
    found = fit_score(
        networks, bank, held_out, photos[: SMOKE_PHOTOS if options["smoke"] else None], plan
    )
    out: Path = options["out"]
    out.mkdir(parents=True, exist_ok=True)
    write_result(networks, out)
    record = {**networks.facts(), **open_finished(options["start"]).record}
    record["face_score"] = found
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"faces refused {found['faces_refused']}, photos taken {found['photos_accepted']}")


def _networks(options: dict[str, Any]) -> FaceNetworks:
    from cdvision.models.faces.training.starts import start_networks

    return start_networks(
        start=options["start"],
        trunk_weights=options.get("initial_weights"),
        generator=options.get("generator"),
        widths=_widths(options),
    )


def _widths(options: dict[str, Any]) -> FaceWidths:
    from cdvision.models.faces.widths import FACE, FACE_TINY

    if options["smoke"]:
        return FACE_TINY
    given = {name: options.get(name) for name in ("resolution", "trunk")}
    return replace(FACE, **{name: value for name, value in given.items() if value is not None})


def _perceptual(options: dict[str, Any]) -> PerceptualLoss | None:
    from cdvision.models.faces.training.perceptual import PerceptualLoss

    if options["perceptual"] == "none":
        return None
    if options["initial_weights"] is None and not options["smoke"]:
        raise click.UsageError("expected --initial-weights: the perceptual loss is made of them")
    return PerceptualLoss(options["initial_weights"], options["perceptual"])


def _frozen(options: dict[str, Any]) -> dict[str, float]:
    """Return the learning rates that are zero."""
    parts = ("trunk", "heads") if options["freeze_encoder"] else ("trunk",)
    frozen = options["freeze_encoder"] or options["freeze_trunk"]
    return dict.fromkeys(parts, 0.0) if frozen else {}


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    asked = ("learning_rate", *names)
    return {name: options[name] for name in asked if options.get(name) is not None}
