"""`cdvision bench rate`: bytes against accuracy, beside picture codecs, in one command."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.evaluate import QualityList
from cdvision.cli.labelled_data import LabelledData, data_options
from cdvision.cli.model_options import ChosenModel, model_options

NEEDS_WEIGHTS = (
    "--initial-weights: `small` expects the folder of the uncompressed networks that rivals' "
    "pictures are shown to: nanodet_plus_m_416.safetensors (github.com/RangiLyu/nanodet) and "
    "mobilenet_v2.safetensors (coral.ai/models); both Apache-2.0, see NOTICE."
)

OWN_WEIGHTS = "--initial-weights: these networks are `small`'s; other packages hold their own."


@click.command()
@data_options
@click.option(
    "--initial-weights",
    type=EXISTING,
    metavar="DIR",
    help="Folder of the uncompressed networks, which rivals' pictures are shown to (`small` only: "
    "other packages hold theirs).",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    metavar="NAME",
    help="jpeg, webp, avif, jxl, hevc or vvc; may be repeated (default: all that work here).",
)
@click.option(
    "-q", "--quality", "qualities", type=QualityList(), help="Such as 1-8 or 1,4,8 (default: all)."
)
@click.option(
    "--for-task",
    is_flag=True,
    help="Encode for the task of the labels alone: streams without what other tasks need.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=lambda: os.cpu_count() or 1,
    show_default="cores",
    help="Pictures that rivals encode at a time.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of rate.json, rate.md, rate.svg, and of the records so far.",
)
@model_options
def rate(
    initial_weights: Path | None,
    rivals: tuple[str, ...],
    qualities: tuple[int, ...] | None,
    for_task: bool,
    jobs: int,
    out: Path,
    labels: LabelledData,
    chosen: ChosenModel,
) -> None:
    """Measure bytes and accuracy of streams and of picture codecs on your labelled photos.

    Every rival feeds the same task network without a codec, at three picture sizes, and is
    judged by the best of them. Records are kept in the folder: an interrupted run goes on
    where it was.
    """
    from cdvision.bench.rate import RateBenchmark, chosen_rivals
    from cdvision.bench.rate_report import write_report

    model = chosen.loaded
    if (model.card.network == "small") != (initial_weights is not None):
        raise click.UsageError(NEEDS_WEIGHTS if initial_weights is None else OWN_WEIGHTS)
    data, _ = labels.read(model)
    working, left_out = chosen_rivals(rivals)
    benchmark = RateBenchmark(
        model,
        data,
        labels.source,
        initial_weights,
        working,
        qualities=qualities,
        jobs=jobs,
        left_out=left_out,
        for_task=for_task,
    )
    click.echo(write_report(benchmark.run(out), out))
