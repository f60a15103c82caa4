"""`cdvision bench`: timings beside a rival, and the fuzzer; the work is done in cdvision.bench."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.cli.bench_analyze import analyze
from cdvision.cli.bench_metrics import picture_metrics
from cdvision.cli.bench_rate import rate
from cdvision.cli.bench_service import service
from cdvision.cli.command_line import BAD_INPUT
from cdvision.cli.family_group import FamilyGroup
from cdvision.cli.model_options import ChosenModel, model_options, quality_option
from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from cdvision import Model

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SEED_SIZES = (64, 128, 192)  # pixels: small streams search best


@click.group(cls=FamilyGroup, group="bench")
def bench() -> None:
    """Time the parts on this machine, measure rate and accuracy, or fuzz the decoder."""


bench.add_command(rate)
bench.add_command(analyze)
bench.add_command(service)
bench.add_command(picture_metrics)


@bench.command()
@as_json_option
def entropy(as_json: bool) -> None:
    """Time the entropy coder, beside CompressAI's and constriction's where they are installed."""
    from cdvision.bench.entropy import main_report

    click.echo(main_report(json=as_json))


@bench.command()
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of photos (default: one drawn picture).",
)
@quality_option
@click.option("--rounds", type=click.IntRange(2), default=60, show_default=True)
@click.option(
    "--batch",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Photos of a batch, timed beside one at a time.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Also write the figures to a file.",
)
@model_options
@as_json_option
def speed(
    photos: Path | None,
    quality: int | None,
    rounds: int,
    batch: int,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Time every part of the chain, beside JPEG, WebP, AVIF, HEVC and the uncompressed network."""
    from cdvision.bench.speed import COLD_RUNS, bench_speed, read_photos
    from cdvision.bench.speed_report import format_speed

    model = ChosenModel(**options).loaded
    report = bench_speed(
        model,
        read_photos(photos),
        quality=quality,
        rounds=rounds,
        batch=batch,
        cold_runs=min(COLD_RUNS, rounds),
    )
    record = json.dumps(report.to_dict())
    if output is not None:
        output.write_text(record + "\n", encoding="utf-8")
    click.echo(record if as_json else format_speed(report))


@bench.command()
@click.option("--count", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same streams.")
@click.option("--model", metavar="NAME|FOLDER", help="Model package that decodes.")
@click.option(
    "--streams",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of .cdv streams to mutate (default: streams of small drawn pictures).",
)
@click.option("--folder", type=Path, default=Path("fuzz-failures"), show_default=True)
@as_json_option
def fuzz(
    count: int, seed: int, model: str | None, streams: Path | None, folder: Path, as_json: bool
) -> None:
    """Decode mutated and cut streams: each must give a result or a clear refusal."""
    from cdvision.bench.fuzz import fuzz_streams

    loaded = _load(model)
    seeds = _seeds(streams) if streams is not None else list(_drawn_seeds(loaded))
    report = fuzz_streams(
        seeds,
        lambda bits: loaded.open(bits).detect(),
        count,
        seed,
        folder=folder,
    )
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))
    if not report.ok:
        raise click.exceptions.Exit(BAD_INPUT)


def _load(model: str | None) -> Model:
    return cdvision.load() if model is None else cdvision.load(model)


def _seeds(folder: Path) -> list[bytes]:
    seeds = [path.read_bytes() for path in sorted(folder.rglob("*.cdv"))]
    if not seeds:
        raise CdvisionError(f"{folder} holds no .cdv stream to mutate")
    return seeds


def _drawn_seeds(model: Model) -> Iterator[bytes]:
    """Yield streams of smooth pictures of a few sizes, at each quality."""
    import numpy as np

    for index, quality in enumerate(range(1, 9)):
        size = SEED_SIZES[index % len(SEED_SIZES)]
        rows, columns = np.mgrid[0:size, 0 : size * 4 // 3] / size
        waves = [np.sin(7 * rows * (k + 1) + 5 * columns + index) for k in range(3)]
        picture = (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)
        yield model.encode(picture, quality=quality, size=size)
