"""`cdvision train faces hsc` and `style-layers`: codecs for the codes of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.models.faces.commands.task import FaceTask, face_stage
from cdvision.models.faces.training.options import (
    HscOptions,
    PerceptualOptions,
    StyleLayersOptions,
)

if TYPE_CHECKING:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.face_bank import FaceBank
    from cdvision.models.faces.training.face_codes import FaceCodes
    from cdvision.models.faces.training.networks import FaceNetworks

REPORT = "layers.json"
SCALE_WIDTH = 64  # of the integer transformer's tokens
_WEIGHTS = click.option(
    "--initial-weights", type=EXISTING, help="Folder with ImageNet weights, to compare pictures."
)


@click.command()
@face_stage(minutes=15.0, batch=32, options=HscOptions)
@_WEIGHTS
def hsc(task: FaceTask, options: HscOptions, initial_weights: Path | None) -> None:
    """Train the two-layer codec on the codes of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.face_codes import encode_faces
    from cdvision.models.faces.training.hsc_report import report_hsc
    from cdvision.models.faces.training.hsc_stage import HscStage
    from cdvision.models.faces.training.networks import packaged_codec
    from cdvision.training.stage_run import run_stage

    plan = task.run.plan()
    networks, codes, held_out = _known(task)
    compared = PerceptualOptions(initial_weights=initial_weights)
    loss = task.perceptual_loss(compared) if options.picture_weight else None
    known = packaged_codec(task.source.start, HscCodec)
    codec, goes_on = known or _new_hsc(task, options, networks), known is not None
    stage = HscStage(networks, codec, codes, plan, options, perceptual=loss, goes_on=goes_on)
    run_stage(stage, task.out, plan, {"start": str(task.source.start)} | networks.facts())
    spare = encode_faces(networks, held_out)
    _write(report_hsc(stage.codec, spare, metric=stage.metric, head=networks.head), task.out)


@click.command("style-layers")
@face_stage(minutes=15.0, batch=64, options=StyleLayersOptions)
@_WEIGHTS
def style_layers(task: FaceTask, options: StyleLayersOptions, initial_weights: Path | None) -> None:
    """Train the three-layer codec on the rows of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.style_layers import StyleLayers, style_layout
    from cdvision.models.faces.training.face_codes import encode_faces
    from cdvision.models.faces.training.networks import packaged_codec
    from cdvision.models.faces.training.perceptual import PerceptualLoss
    from cdvision.models.faces.training.style_layers_stage import StyleLayersStage
    from cdvision.models.faces.training.style_report import report_layers
    from cdvision.training.stage_run import run_stage

    plan = task.run.plan()
    networks, codes, held_out = _known(task)
    width = SCALE_WIDTH if options.scales == "transformer" else 0
    layout = style_layout(networks.widths, scale_width=width, corrected=True)
    known = packaged_codec(task.source.start, StyleLayers)
    loss = None if initial_weights is None else PerceptualLoss(initial_weights)
    codec, goes_on = known or StyleLayers(layout), known is not None
    stage = StyleLayersStage(
        networks, codec, codes.rows, plan, options, perceptual=loss, goes_on=goes_on
    )
    run_stage(stage, task.out, plan, {"start": str(task.source.start)} | networks.facts())
    rows, attributes = encode_faces(networks, held_out).rows, held_out.attributes
    layers = report_layers(
        stage.codec, rows, metric=stage.metric, head=networks.head, attributes=attributes
    )
    _write({"qualities": layers}, task.out)


def _known(task: FaceTask) -> tuple[FaceNetworks, FaceCodes, FaceBank]:
    """Return networks, the codes of the training faces (kept in the run), and held-out faces."""
    from cdvision.models.faces.training.face_codes import FILE, cached_codes

    networks = task.finished_networks()
    bank, held_out = task.banks(networks)
    return networks, cached_codes(task.out / FILE, networks, bank, mirror=True), held_out


def _new_hsc(task: FaceTask, options: HscOptions, networks: FaceNetworks) -> HscCodec:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.hsc_widths import our_widths, paper_widths, tiny_widths

    if task.run.smoke:
        return HscCodec(tiny_widths(networks.widths, dense=options.widths == "ours"))
    chosen = our_widths if options.widths == "ours" else paper_widths
    return HscCodec(chosen(networks.widths))


def _write(report: Any, out: Path) -> None:
    """Write the figures of held-out faces, and say where all of it lies."""
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / 'weights.safetensors'} · held-out faces: {out / REPORT}")
