"""`cdvision train sequence`: gives a package of `small` delta packets, for videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.training_options import FOLDER, PHOTOS, SPLIT_TABLE, read_splits


@click.command()
@click.argument("package", type=FOLDER)
@PHOTOS
@SPLIT_TABLE
@click.option("--clip", "clips", multiple=True, type=EXISTING, help="Video to count on, too.")
@click.option("--fps", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--sequences", type=click.IntRange(1), default=60, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--out", type=Path, required=True, help="Folder of the new package.")
def sequence(
    package: Path,
    photos: tuple[Path, ...],
    split_table: Path | None,
    clips: tuple[Path, ...],
    fps: float,
    sequences: int,
    seed: int,
    out: Path,
) -> None:
    """Count the tables of delta packets for PACKAGE, on moving PHOTOS (folders, tars) and clips.

    Photos' streams stay the same to the byte.
    """
    from cdvision.building.moving_photos import read_arrays
    from cdvision.building.sequence_tables import (
        add_tables,
        count_clip,
        count_photos,
        new_counts,
        with_spec,
    )
    from cdvision.model import Model
    from cdvision.models.small.receiver.coder import MAP_LAYER
    from cdvision.package.card import CARD_FILE
    from cdvision.package.loader import load_package

    source = load_package(package)
    out.mkdir(parents=True, exist_ok=True)
    for name in (*source.card.files, CARD_FILE):
        if out.resolve() != package.resolve():
            shutil.copyfile(package / name, out / name)
    _export_graph(out)
    # The card does not name the graph yet: an engine opens it beside the others all the same.
    files = {**source.card.files, "delta.onnx": ""}
    model = with_spec(Model(_with_files(out, files)), MAP_LAYER)
    counts = new_counts()
    pictures = read_arrays(photos, 2 * sequences, read_splits(split_table))
    frames = count_photos(model, pictures, sequences, seed, counts)
    told = [f"{frames} frames made of photos ({', '.join(path.name for path in photos)})"]
    for clip in clips:
        count = count_clip(model, clip, fps, counts)
        told.append(f"{count} of {clip.name} at {fps:g} frames a second")
    card = add_tables(source, MAP_LAYER, counts, "; ".join(told), out)
    click.echo(f"{out}: {card.name} {card.sequence.fingerprint[:8] if card.sequence else ''}")


def _with_files(folder: Path, files: dict[str, str]):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    from cdvision.package.card_reader import read_card
    from cdvision.package.loader import ModelPackage

    return ModelPackage(folder, replace(read_card(folder), files=files))


def _export_graph(folder: Path) -> None:
    """Write ``delta.onnx`` where it is missing."""
    path = folder / "delta.onnx"
    if path.is_file():
        return
    from cdvision.export.onnx_graphs import export_graph
    from cdvision.export.parity import check_parity
    from cdvision.networks.graphs import graph_modules, load_network
    from cdvision.package.loader import WEIGHTS_FILE

    weights = folder / WEIGHTS_FILE
    graph = graph_modules("small", load_network("small", weights))["delta"]
    export_graph(graph, path, weights)
    check_parity(graph, path)
