"""`cdvision train descriptor`: the first layer of `small`, beside a finished map."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cdvision.cli.training_options import FOLDER, OUT, PHOTOS, SPLIT_TABLE, photo_banks


@click.command()
@click.argument("run", type=FOLDER)
@PHOTOS
@OUT
@SPLIT_TABLE
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--seed", type=int, default=0, show_default=True)
def descriptor(
    run: Path, photos: tuple[Path, ...], out: Path, split_table: Path | None, device: str, seed: int
) -> None:
    """Compute the descriptor of `small` beside the map of a finished RUN, which stays as it is."""
    from safetensors.torch import load_file

    from cdvision.models.small.network import Small
    from cdvision.models.small.training.descriptor import TARGET_BYTES, compute_descriptor
    from cdvision.training.plan_options import usable_device
    from cdvision.training.stage_run import RECORD, WEIGHTS, read_record, write_result

    record, where = read_record(run), usable_device(device)
    state = {name: value.float() for name, value in load_file(run / WEIGHTS).items()}
    model = Small.from_state(state).eval().requires_grad_(False)
    used = compute_descriptor(model, photo_banks(photos, split_table, where), where, seed)
    out.mkdir(parents=True, exist_ok=True)
    write_result(model, out)
    record["descriptor"] = {"photos": used, "target_bytes": TARGET_BYTES, "seed": seed}
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(f"weights: {out / WEIGHTS}")
