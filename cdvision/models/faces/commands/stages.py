"""`cdvision train faces`: every stage of the face models, each resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.training_options import read_splits, train_stage
from cdvision.models.faces.commands.task import FaceTask, face_stage
from cdvision.models.faces.training.options import (
    GeneratorOptions,
    HscOptions,
    InversionOptions,
    NetworkOptions,
    PerceptualOptions,
    RowsOptions,
    StyleLayersOptions,
    TrunkOptions,
)

if TYPE_CHECKING:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.codec_stage import FaceCodecStage
    from cdvision.models.faces.training.face_bank import FaceBank
    from cdvision.models.faces.training.networks import FaceNetworks

SMOKE_PHOTOS = 16
REPORT = "layers.json"
SCALE_WIDTH = 64  # of the integer transformer's tokens
_WEIGHTS = click.option(
    "--initial-weights", type=EXISTING, help="Folder with ImageNet weights, to compare pictures."
)


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
    from cdvision.models.faces.training.stage_rows import RowsStage

    plan, networks = task.run.plan(), task.finished_networks()
    bank, held_out = task.banks(networks)
    codes, loss = task.codes(networks, bank), task.perceptual_loss(pictures)
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


@click.command()
@face_stage(minutes=15.0, batch=32, options=HscOptions)
@_WEIGHTS
def hsc(task: FaceTask, options: HscOptions, initial_weights: Path | None) -> None:
    """Train the two-layer codec on the codes of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.hsc_stage import HscStage
    from cdvision.models.faces.training.networks import packaged_codec

    plan, networks = task.run.plan(), task.finished_networks()
    bank, held_out = task.banks(networks)
    codes = task.codes(networks, bank)
    compared = PerceptualOptions(initial_weights=initial_weights)
    loss = task.perceptual_loss(compared) if options.picture_weight else None
    known = packaged_codec(task.source.start, HscCodec)
    codec, goes_on = known or _new_hsc(task, options, networks), known is not None
    stage = HscStage(networks, codec, codes, plan, options, perceptual=loss, goes_on=goes_on)
    report = _train_codec(stage, task, held_out)
    _write(report, task.out)


@click.command("style-layers")
@face_stage(minutes=15.0, batch=64, options=StyleLayersOptions)
@_WEIGHTS
def style_layers(task: FaceTask, options: StyleLayersOptions, initial_weights: Path | None) -> None:
    """Train the three-layer codec on the rows of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.style_layers import StyleLayers, style_layout
    from cdvision.models.faces.training.networks import packaged_codec
    from cdvision.models.faces.training.perceptual import PerceptualLoss
    from cdvision.models.faces.training.style_layers_stage import StyleLayersStage

    plan, networks = task.run.plan(), task.finished_networks()
    bank, held_out = task.banks(networks)
    codes = task.codes(networks, bank)
    width = SCALE_WIDTH if options.scales == "transformer" else 0
    layout = style_layout(networks.widths, scale_width=width, corrected=True)
    known = packaged_codec(task.source.start, StyleLayers)
    loss = None if initial_weights is None else PerceptualLoss(initial_weights)
    codec, goes_on = known or StyleLayers(layout), known is not None
    stage = StyleLayersStage(
        networks, codec, codes.rows, plan, options, perceptual=loss, goes_on=goes_on
    )
    _write({"qualities": _train_codec(stage, task, held_out)}, task.out)


def _new_hsc(task: FaceTask, options: HscOptions, networks: FaceNetworks) -> HscCodec:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.widths import our_widths, paper_widths, tiny_widths

    if task.run.smoke:
        return HscCodec(tiny_widths(networks.widths, dense=options.widths == "ours"))
    chosen = our_widths if options.widths == "ours" else paper_widths
    return HscCodec(chosen(networks.widths))


def _train_codec(
    stage: FaceCodecStage[Any], task: FaceTask, held_out: FaceBank
) -> list[dict[str, Any]]:
    """Train a codec stage, and measure its codec on held-out faces."""
    from cdvision.models.faces.training.codec_report import report_codec
    from cdvision.models.faces.training.face_bank import encode_faces
    from cdvision.training.stage_run import run_stage

    networks = stage.networks
    facts = {"start": str(task.source.start)} | networks.facts()
    run_stage(stage, task.out, stage.plan, facts)
    spare = encode_faces(networks, held_out)
    return report_codec(stage.codec, spare, metric=stage.metric, head=networks.head)


def _write(report: Any, out: Path) -> None:
    """Write the figures of held-out faces, and say where all of it lies."""
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / 'weights.safetensors'} · held-out faces: {out / REPORT}")
