"""`cdvision train faces hsc`: the codec stage of `hsc`."""

from __future__ import annotations

import json
from pathlib import Path
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
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.networks import FaceNetworks

REPORT = "layers.json"


@click.command()
@face_options(minutes=15.0, batch=32)
@click.option("--base-bytes", type=(float, float), help="Base layer's body, quality 1 and 8.")
@click.option("--all-bytes", type=(float, float), help="Both bodies, quality 1 and 8.")
@click.option(
    "--widths",
    type=click.Choice(["ours", "paper"]),
    default="ours",
    show_default=True,
    help="paper: the method's own, which want a GPU to train and tens of ms to decode.",
)
@click.option(
    "--label-weight",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Cross-entropy of the base layer's answers with the labels.",
)
@click.option(
    "--picture-weight",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Extension: compare pictures through the generator, on --initial-weights.",
)
@click.option("--initial-weights", type=EXISTING, help="Folder with ImageNet weights.")
@click.option("--learning-rate", type=float, help="Default: the stage's own.")
def hsc(**options: Any) -> None:
    """Train the two-layer codec on the codes of FACES; --start: inversion run, or package."""
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.training.face_codes import FILE, cached_codes, encode_faces
    from cdvision.models.faces.training.hsc_report import report_hsc
    from cdvision.models.faces.training.hsc_stage import HscStage, HscWeights
    from cdvision.models.faces.training.networks import packaged_codec
    from cdvision.training.stage_run import run_stage

    plan, networks = planned(options, smoke_batch=SMOKE_BATCH), finished_networks(options)
    bank, held_out = banks(options, networks, plan)
    out: Path = options["out"]
    codec = packaged_codec(options["start"], HscCodec)
    stage = HscStage(
        networks,
        codec or _codec(options, networks),
        cached_codes(out / FILE, networks, bank, mirror=True),
        plan,
        weights=HscWeights(labels=options["label_weight"], pictures=options["picture_weight"]),
        perceptual=_perceptual(options),
        goes_on=codec is not None,
        **_given(options),
    )
    run_stage(stage, out, plan, facts={"start": str(options["start"])} | networks.facts())
    codes = encode_faces(networks, held_out)
    report = report_hsc(stage.codec, codes, metric=stage.metric, head=networks.head)
    (out / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / 'weights.safetensors'} · held-out faces: {out / REPORT}")


def _codec(options: dict[str, Any], networks: FaceNetworks) -> HscCodec:
    from cdvision.models.faces.hsc import HscCodec
    from cdvision.models.faces.hsc_widths import our_widths, paper_widths, tiny_widths

    if options["smoke"]:
        return HscCodec(tiny_widths(networks.widths, dense=options["widths"] == "ours"))
    chosen = our_widths if options["widths"] == "ours" else paper_widths
    return HscCodec(chosen(networks.widths))


def _perceptual(options: dict[str, Any]) -> Any:
    from cdvision.models.faces.training.perceptual import PerceptualLoss

    if not options["picture_weight"]:
        return None
    if options["initial_weights"] is None and not options["smoke"]:
        raise click.UsageError("expected --initial-weights: pictures are compared on them")
    return PerceptualLoss(options["initial_weights"])


def _given(options: dict[str, Any]) -> dict[str, Any]:
    named = {"base": "base_bytes", "total": "all_bytes", "learning_rate": "learning_rate"}
    return {key: options[name] for key, name in named.items() if options[name] is not None}
