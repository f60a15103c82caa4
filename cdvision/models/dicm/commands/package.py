"""`cdvision train dicm package`: finished runs become a model package."""

from __future__ import annotations

from pathlib import Path

import click

EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("codec_run", metavar="CODEC", type=EXISTING)
@click.argument("head_runs", metavar="[HEADS]...", nargs=-1, type=EXISTING)
@click.option("-o", "--out", type=Path, required=True, help="Folder of the package.")
@click.option("--name", help="Of the model (default: its profile).")
@click.option("--licence", default="Apache-2.0", show_default=True, help="Of initial weights.")
@click.option("--metrics", type=EXISTING, help="JSON list of measured figures for the card.")
def package(
    codec_run: Path,
    head_runs: tuple[Path, ...],
    out: Path,
    name: str | None,
    licence: str,
    metrics: Path | None,
) -> None:
    """Build a model package from finished runs: tables, proof, graphs, parity, card."""
    import json

    from cdvision.building.package_builder import PackageFacts
    from cdvision.models.dicm.package_builder import DicmFacts, build_dicm
    from cdvision.models.dicm.training.assemble import assemble

    found = assemble(codec_run, head_runs)
    settings = found.network.settings
    names = DicmFacts(
        name or settings.profile,
        f"Photos: {settings.backbone} features after stage 1 in a stream.",
        (
            {
                "part": "front, tail",
                "initialised_from": str(found.training["codec"]["origin"]),
                "licence": licence,
            },
            {"part": "everything else", "initialised_from": "random numbers", "licence": "-"},
        ),
    )
    measured = () if metrics is None else tuple(json.loads(metrics.read_text(encoding="utf-8")))
    card = build_dicm(
        found.network, out, names, PackageFacts(found.classes, found.training, measured)
    )
    click.echo(f"{out}: {card.name}, {', '.join(card.tasks) or 'features only'}")
