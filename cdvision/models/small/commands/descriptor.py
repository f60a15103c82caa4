"""`cdvision train descriptor`: the first layer of `small`, beside a finished map."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cdvision.cli.training_options import OUT, PHOTOS, SPLIT_TABLE, photo_banks


@click.command()
@click.argument("run")
@PHOTOS
@OUT
@SPLIT_TABLE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
def descriptor(
    run: str, photos: tuple[Path, ...], out: Path, split_table: Path | None, device: str, seed: int
) -> None:
    """Compute the descriptor of `small` beside the map of a RUN or package, which stays."""
    from cdvision.models.small.network import Small
    from cdvision.models.small.training.descriptor import TARGET_BYTES, compute_descriptor
    from cdvision.training.finished import open_finished
    from cdvision.training.plan_options import usable_device
    from cdvision.training.run_folder import RECORD, WEIGHTS, write_result

    start, where = open_finished(run), usable_device(device)
    start.require_network("small")
    record = start.record
    model = Small.from_state(start.weights()).eval().requires_grad_(False)
    used = compute_descriptor(model, photo_banks(photos, split_table, where), where, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_result(model, out)
    record["descriptor"] = {"photos": used, "target_bytes": TARGET_BYTES, "seed": seed}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / WEIGHTS}")
