"""What finished runs and foreign checkpoints become: model packages, safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING

OWN = "random numbers, or regressions of those features"
LICENCES = {"resnet50-msra": "MIT"}


@click.command()
@click.argument("codec_run", metavar="CODEC", type=EXISTING)
@click.argument("head_runs", metavar="[HEADS]...", nargs=-1, type=EXISTING)
@click.option("-o", "--out", type=Path, required=True, help="Folder of the package.")
@click.option("--name", help="Of the model (default: its profile).")
@click.option(
    "--licence", help="Of initial weights (default: MIT of resnet50-msra, else Apache-2.0)."
)
@click.option("--metrics", type=EXISTING, help="JSON list of measured figures for the card.")
def package(
    codec_run: Path,
    head_runs: tuple[Path, ...],
    out: Path,
    name: str | None,
    licence: str | None,
    metrics: Path | None,
) -> None:
    """Build a model package from finished runs: tables, proof, graphs, parity, card."""
    import json

    from cdvision.building.package_builder import PackageFacts
    from cdvision.models.dicm.package_builder import DicmFacts, build_dicm
    from cdvision.models.dicm.training.assemble import assemble

    found = assemble(codec_run, head_runs)
    licence = licence or LICENCES.get(found.network.settings.backbone, "Apache-2.0")
    settings, origin = found.network.settings, str(found.training["codec"]["origin"])
    names = DicmFacts(
        name or settings.profile,
        f"Photos: {settings.backbone} features after stage 1 in a stream.",
        (
            {"part": "front, tail", "initialised_from": origin, "licence": licence},
            {"part": "everything else", "initialised_from": OWN, "licence": "-"},
        ),
    )
    measured = () if metrics is None else tuple(json.loads(metrics.read_text(encoding="utf-8")))
    facts = PackageFacts(found.classes, found.training, measured)
    card = build_dicm(found.network, out, names, facts)
    click.echo(f"{out}: {card.name}, {', '.join(card.tasks) or 'features only'}")


@click.command("convert-zoo")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=Path, help="File to write (default: CHECKPOINT.safetensors).")
def convert_zoo(checkpoint: Path, out: Path | None) -> None:
    """Convert CHECKPOINT, a .pkl of Detectron2's model zoo, to safetensors.

    A pickle can hold programs. Nothing but arrays is read here: convert a file from its author
    once, and use what comes out.
    """
    import warnings

    from cdvision.models.dicm.zoo_weights import convert_zoo_checkpoint

    target = out or checkpoint.with_suffix(".safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = convert_zoo_checkpoint(checkpoint, target)
    for one in caught:
        click.echo(f"warning: {one.message}", err=True)
    click.echo(f"{target}: {count} arrays")
