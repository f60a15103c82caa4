"""`cdvision train masks`: the mask branch of `small`, on a finished package."""

from __future__ import annotations

from pathlib import Path

import click

from cdvision.cli.training_options import place

_EXISTING = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("start")
@click.argument("photos", nargs=-1, required=True, type=_EXISTING)
@click.option(
    "--boxes",
    multiple=True,
    required=True,
    type=_EXISTING,
    help="COCO-format json with boxes and run-length masks; may be given several times.",
)
@click.option("-o", "--out", type=Path, default=Path("runs/masks"), show_default=True)
@click.option("--minutes", type=float, default=35.0, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Length in steps instead.")
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True)
@click.option("--short", default=256, show_default=True, help="Short side of an input, pixels.")
@click.option("--long", default=384, show_default=True, help="Long side of an input, pixels.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
def masks(
    start: str,
    photos: tuple[Path, ...],
    boxes: tuple[Path, ...],
    out: Path,
    minutes: float,
    steps: int | None,
    batch: int,
    short: int,
    long: int,
    device: str,
    seed: int,
) -> None:
    """Train the mask branch of START, a package of `small` (folder or name), on labelled PHOTOS.

    PHOTOS are folders or tars that hold the photos of all --boxes. No byte of any stream changes;
    started again, it resumes.
    """
    from cdvision.models.small.training.masks import MaskStage, banks_with_masks
    from cdvision.package.loader import load_package
    from cdvision.package.registry import model_folder
    from cdvision.training.labelled_boxes import read_labelled
    from cdvision.training.stage_run import Plan, run_stage

    plan = Plan(minutes, batch, place(device), steps=steps, seed=seed)
    package = load_package(model_folder(start))
    sets = [read_labelled(labels, photos).photos for labels in boxes]
    banks = banks_with_masks(sets, short=short, long=long, device=plan.device)
    run_stage(MaskStage(package, banks, plan), out, plan, {"boxes": [path.name for path in boxes]})
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")


@click.command("add-masks")
@click.argument("package", type=_FOLDER)
@click.argument("run", type=_FOLDER)
@click.option("-o", "--out", type=Path, required=True, help="Folder of the new package.")
def add_masks(package: Path, run: Path, out: Path) -> None:
    """Write PACKAGE again with the mask branch of RUN, which was trained on it.

    Streams, and all that the package answers without masks, stay the same to the bit.
    """
    from cdvision.models.small.mask_branch import add_mask_branch

    card = add_mask_branch(package, run, out)
    click.echo(f"{out}: {card.name} {card.fingerprint[:8]}: {', '.join(card.tasks)}")
