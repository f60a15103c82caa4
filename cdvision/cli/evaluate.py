"""`cdvision eval`: accuracy from real streams, beside pixels and rival codecs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.opener import Opener, model_options

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.curve import LabelledSet

existing = click.Path(exists=True, path_type=Path)


@click.command("eval")
@click.option("--coco", type=existing, help="COCO json of boxes.")
@click.option("--classes", type=existing, help="csv with columns file and imagenet_class.")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Rows of the csv to use.")
@click.option("--images", type=existing, required=True, help="Folder or tar of the photos.")
@click.option(
    "-q",
    "--quality",
    "qualities",
    multiple=True,
    type=click.IntRange(1, 8),
    help="Qualities to measure, each with its own -q (default: all).",
)
@click.option(
    "--initial-weights",
    type=existing,
    help="Folder of the uncompressed networks, to measure them in the same run.",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    metavar="NAME",
    help="Picture codec to measure too: jpeg, webp, avif, hevc (may be repeated).",
)
@click.option("-o", "--out", type=Path, help="Write the records as json.")
@model_options
def evaluate(
    coco: Path | None,
    classes: Path | None,
    where: tuple[str, ...],
    images: Path,
    qualities: tuple[int, ...],
    initial_weights: Path | None,
    rivals: tuple[str, ...],
    out: Path | None,
    **options: Any,
) -> None:
    """Measure accuracy and mean bytes at every quality: AP with --coco, top-1 with --classes."""
    from cdvision.evaluation import curve

    if rivals and initial_weights is None:
        raise click.UsageError("--rival needs --initial-weights: rivals feed those networks.")
    model = Opener(**options).model_for_evaluation()
    data = _labelled_set(coco, classes, images, where)
    records = curve.stream_curve(model, data, qualities or range(1, model.card.qualities + 1))
    if initial_weights is not None:
        records += _reference_records(model, initial_weights, data, rivals)
    click.echo(curve.format_records(records))
    if out is not None:
        out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def _labelled_set(
    coco: Path | None, classes: Path | None, images: Path, where: tuple[str, ...]
) -> LabelledSet:
    from cdvision.evaluation.curve import LabelledSet
    from cdvision.evaluation.labelled import classified_photos, coco_photos

    if coco is not None and classes is None:
        return LabelledSet(list(coco_photos(coco, images)), coco)
    if classes is not None and coco is None:
        if not all("=" in condition for condition in where):
            raise click.UsageError("--where: expected COLUMN=VALUE.")
        rows = dict(condition.split("=", 1) for condition in where)
        return LabelledSet(list(classified_photos(classes, images, where=rows)))
    raise click.UsageError("Give either --coco or --classes.")


def _reference_records(
    model: Model, initial_weights: Path, data: LabelledSet, rivals: tuple[str, ...]
) -> list[dict[str, Any]]:
    from cdvision.evaluation.curve import pixel_record, rival_curve
    from cdvision.evaluation.reference import PixelPath, write_reference_graphs
    from cdvision.evaluation.rivals import RIVALS

    unknown = sorted(set(rivals) - set(RIVALS))
    if unknown:
        raise click.UsageError(f"--rival: expected one of {', '.join(RIVALS)}, found {unknown[0]}.")
    with tempfile.TemporaryDirectory() as folder:
        write_reference_graphs(initial_weights, Path(folder))
        reference = PixelPath(model.package, Path(folder))
        records = [pixel_record(data, reference)]
        for name in rivals:
            records += rival_curve(name, data, reference)
    return records
