"""`cdvision train faces style-layers`: the codec stage of `sfic-style`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.training_options import planned
from cdvision.models.faces.commands.options import (
    EXISTING,
    SMOKE_BATCH,
    banks,
    face_options,
    finished_networks,
)

if TYPE_CHECKING:
    from torch import Tensor

    from cdvision.models.faces.style_layers import StyleLayers
    from cdvision.models.faces.training.networks import FaceNetworks
    from cdvision.models.faces.training.style_layers_stage import StyleLayersStage

REPORT = "layers.json"
SCALE_WIDTH = 64  # of the integer transformer's tokens


@click.command("style-layers")
@face_options(minutes=15.0, batch=64)
@click.option("--basic-bytes", type=(float, float), help="Basic layer, quality 1 and 8.")
@click.option("--all-bytes", type=(float, float), help="All three layers, quality 1 and 8.")
@click.option(
    "--scales",
    type=click.Choice(["tables", "transformer"]),
    default="tables",
    show_default=True,
    help="What tells the scales of later layers; both are exact.",
)
@click.option(
    "--compare-scales",
    type=click.IntRange(1),
    metavar="STEPS",
    help="Afterwards, fit fixed, integer and float scales for so many steps; report their bits.",
)
@click.option("--initial-weights", type=EXISTING, help="Compare pictures too, on these networks.")
@click.option("--learning-rate", type=float, help="Default: the stage's own.")
def style_layers(**options: Any) -> None:
    """Train the three-layer codec on the rows of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.style_layers import StyleLayers
    from cdvision.models.faces.training.face_codes import FILE, cached_codes, encode_faces
    from cdvision.models.faces.training.networks import packaged_codec
    from cdvision.models.faces.training.perceptual import PerceptualLoss
    from cdvision.models.faces.training.style_layers_stage import StyleLayersStage
    from cdvision.training.stage_run import run_stage

    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), finished_networks(options)
    bank, held_out = banks(options, networks, plan)
    out, weights = options["out"], options["initial_weights"]
    named = {"basic": "basic_bytes", "total": "all_bytes", "learning_rate": "learning_rate"}
    codec = packaged_codec(options["start"], StyleLayers)
    stage = StyleLayersStage(
        networks,
        codec or _codec(options, networks),
        cached_codes(out / FILE, networks, bank, mirror=True).rows,
        plan,
        perceptual=None if weights is None else PerceptualLoss(weights),
        goes_on=codec is not None,
        **{k: options[name] for k, name in named.items() if options[name] is not None},
    )
    run_stage(stage, out, plan, facts={"start": str(options["start"])} | networks.facts())
    rows = encode_faces(networks, held_out).rows
    report = _report(stage, rows, held_out.attributes, options["compare_scales"])
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / 'weights.safetensors'} · held-out faces: {out / REPORT}")


def _codec(options: dict[str, Any], networks: FaceNetworks) -> StyleLayers:
    from cdvision.models.faces.style_layers import StyleLayers, style_layout

    exact = options["scales"] == "transformer"
    width = SCALE_WIDTH if exact else 0
    return StyleLayers(style_layout(networks.widths, scale_width=width, corrected=True))


def _report(
    stage: StyleLayersStage, rows: Tensor, attributes: Tensor, steps: int | None
) -> dict[str, Any]:
    from cdvision.models.faces.training.style_report import report_layers
    from cdvision.models.faces.training.style_scales import compare_scales

    head, metric = stage.networks.head, stage.metric
    layers = report_layers(stage.codec, rows, metric=metric, head=head, attributes=attributes)
    if steps is None:
        return {"qualities": layers}
    return {
        "qualities": layers,
        "later_bits": compare_scales(stage.codec, stage.rows, rows, steps=steps),
    }
