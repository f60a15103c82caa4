"""`cdvision train masks`: the mask branch of `small`, on a finished run or package."""

from __future__ import annotations

from pathlib import Path

import click

_EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("start", type=click.Path(exists=True, file_okay=False, path_type=Path))
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
    start: Path,
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
    """Train the mask branch of START, a finished run or package of `small`, on labelled PHOTOS.

    PHOTOS are folders or tars that hold the photos of all --boxes. No byte of any stream changes;
    started again, it resumes.
    """
    import torch

    from cdvision.training.dicm.stage_run import Plan, run_stage
    from cdvision.training.labelled_boxes import read_labelled
    from cdvision.training.masks import MaskStage, banks_with_masks, finished_small

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    plan = Plan(minutes, batch, torch.device(chosen), steps=steps, seed=seed)
    model = finished_small(start)
    sets = [read_labelled(labels, photos).photos for labels in boxes]
    banks = banks_with_masks(sets, short=short, long=long, device=plan.device)
    run_stage(MaskStage(model, banks, plan), out, plan, {"boxes": [path.name for path in boxes]})
    click.echo(f"weights: {out / 'weights.safetensors'} · log: {out / 'log.jsonl'}")
