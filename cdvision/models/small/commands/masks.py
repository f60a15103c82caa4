"""`cdvision train masks`: the mask branch of `small`, on a finished package."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING, dataclass_options
from cdvision.cli.training_options import FOLDER, PHOTOS, train_stage
from cdvision.models.small.training.options import MaskOptions


@click.command()
@click.argument("start")
@PHOTOS
@click.option(
    "--boxes",
    multiple=True,
    required=True,
    type=EXISTING,
    help="COCO-format json with boxes and run-length masks; may be given several times.",
)
@click.option("-o", "--out", type=Path, default=Path("runs/masks"), show_default=True)
@dataclass_options(options=MaskOptions(minutes=35.0))
def masks(
    start: str, photos: tuple[Path, ...], boxes: tuple[Path, ...], out: Path, options: MaskOptions
) -> None:
    """Train the mask branch of START, a package of `small` (folder or name), on labelled PHOTOS.

    PHOTOS are folders or tars that hold the photos of all --boxes. No byte of any stream changes;
    started again, it resumes.
    """
    from cdvision.models.small.training.masks import MaskStage, banks_with_masks
    from cdvision.package.loader import load_package
    from cdvision.package.registry import model_folder
    from cdvision.training.labelled_boxes import read_labelled

    plan, package = options.plan(), load_package(model_folder(start))
    sets = [read_labelled(labels, photos).photos for labels in boxes]
    banks = banks_with_masks(sets, short=options.short, long=options.long, device=plan.device)
    stage = MaskStage(package, banks, plan, options)
    train_stage(stage, out, plan, {"boxes": [path.name for path in boxes]})


@click.command("add-masks")
@click.argument("package", type=FOLDER)
@click.argument("run", type=FOLDER)
@click.option("-o", "--out", type=Path, required=True, help="Folder of the new package.")
def add_masks(package: Path, run: Path, out: Path) -> None:
    """Write PACKAGE again with the mask branch of RUN, which was trained on it.

    Streams, and all that the package answers without masks, stay the same to the bit.
    """
    from cdvision.models.small.mask_branch import add_mask_branch

    card = add_mask_branch(package, run, out)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}: {', '.join(card.tasks)}")
