"""`cdvision train faces hsc` and `style-layers`: codecs for the codes of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.models.faces.commands.sources import (
    FaceRun,
    face_stage,
    finished_networks,
    perceptual_loss,
    read_banks,
)
from cdvision.models.faces.training.options import (
    FaceSource,
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
@face_stage(minutes=15.0, batch=32, source=FaceSource, options=HscOptions)
@_WEIGHTS
def hsc(
    faces: Path,
    out: Path,
    run: FaceRun,
    source: FaceSource,
    options: HscOptions,
    initial_weights: Path | None,
) -> None:
    """Train the two-layer codec on the codes of FACES; --start is a finished inversion run."""
    from cdvision.models.faces.training.face_codes import encode_faces
    from cdvision.models.faces.training.hsc_report import report_hsc
    from cdvision.models.faces.training.hsc_stage import HscStage
    from cdvision.training.stage_run import run_stage

    plan = run.plan()
    networks, codes, held_out = _known(faces, source, run, out)
    compared = PerceptualOptions(initial_weights=initial_weights)
    loss = perceptual_loss(compared, run) if options.picture_weight else None
    codec = _hsc(options, networks, run)
    stage = HscStage(networks, codec, codes, plan, options, perceptual=loss)
    run_stage(stage, out, plan, facts={"start": str(source.start)} | networks.facts())
    spare = encode_faces(networks, held_out)
    _write(report_hsc(stage.codec, spare, metric=stage.metric, head=networks.head), out)


@click.command("style-layers")
@face_stage(minutes=15.0, batch=64, source=FaceSource, options=StyleLayersOptions)
@_WEIGHTS
def style_layers(
    faces: Path,
    out: Path,
    run: FaceRun,
    source: FaceSource,
    options: StyleLayersOptions,
    initial_weights: Path | None,
) -> None:
    """Train the three-layer codec on the rows of FACES; --start is a finished inversion run."""
    from cdvision.models.faces.style_layers import StyleLayers, style_layout
    from cdvision.models.faces.training.face_codes import encode_faces
    from cdvision.models.faces.training.perceptual import PerceptualLoss
    from cdvision.models.faces.training.style_layers_stage import StyleLayersStage
    from cdvision.models.faces.training.style_report import report_layers
    from cdvision.training.stage_run import run_stage

    plan = run.plan()
    networks, codes, held_out = _known(faces, source, run, out)
    width = SCALE_WIDTH if options.scales == "transformer" else 0
    codec = StyleLayers(style_layout(networks.widths, scale_width=width, corrected=True))
    loss = None if initial_weights is None else PerceptualLoss(initial_weights)
    stage = StyleLayersStage(networks, codec, codes.rows, plan, options, perceptual=loss)
    run_stage(stage, out, plan, facts={"start": str(source.start)} | networks.facts())
    rows, attributes = encode_faces(networks, held_out).rows, held_out.attributes
    layers = report_layers(
        stage.codec, rows, metric=stage.metric, head=networks.head, attributes=attributes
    )
    _write({"qualities": layers}, out)


def _known(
    faces: Path, source: FaceSource, run: FaceRun, out: Path
) -> tuple[FaceNetworks, FaceCodes, FaceBank]:
    """Return networks, the codes of the training faces (kept in the run), and held-out faces."""
    from cdvision.models.faces.training.face_codes import FILE, cached_codes

    networks = finished_networks(source, run)
    bank, held_out = read_banks(faces, source, networks, run)
    return networks, cached_codes(out / FILE, networks, bank, mirror=True), held_out


def _hsc(options: HscOptions, networks: FaceNetworks, run: FaceRun) -> HscCodec:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.hsc_widths import our_widths, paper_widths, tiny_widths

    if run.smoke:
        return HscCodec(tiny_widths(networks.widths, dense=options.widths == "ours"))
    chosen = our_widths if options.widths == "ours" else paper_widths
    return HscCodec(chosen(networks.widths))


def _write(report: Any, out: Path) -> None:
    """Write the figures of held-out faces, and say where all of it lies."""
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / 'weights.safetensors'} · held-out faces: {out / REPORT}")
