"""`cdvision eval`: accuracy and bytes of a model's streams on labelled photos."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.labelled_data import LabelledData, data_options
from cdvision.cli.model_options import ChosenModel, model_options, size_option
from cdvision.cli.output_files import OutputError
from cdvision.whole_files import check_writable, write_whole

if TYPE_CHECKING:
    from cdvision import Model

    _QualityType = click.ParamType[tuple[int, ...]]
else:
    _QualityType = click.ParamType  # older releases of click take no type here


class QualityList(_QualityType):
    """Qualities (or another noun) such as ``1-8`` or ``1,4,8``, as a sorted tuple."""

    name = "LIST"

    def __init__(self, noun: str = "qualities") -> None:
        self._noun = noun

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the tuple; click also passes through what is one already."""
        if isinstance(value, tuple):
            return value
        parts = [re.fullmatch(r"\s*(\d)\s*(?:-\s*(\d)\s*)?", part) for part in value.split(",")]
        spans = [(int(part[1]), int(part[2] or part[1])) for part in parts if part is not None]
        found = {quality for first, last in spans for quality in range(first, last + 1)}
        if None in parts or not found:
            self.fail(f"expected {self._noun} such as 1-8 or 1,4,8, found {value!r}.", param, ctx)
        return tuple(sorted(found))


layers_option = click.option(
    "--layers",
    type=QualityList("layers"),
    help="Cut the streams after so many layers, such as 1,2,3 (default: whole streams).",
)


@click.command("eval")
@data_options
@click.option(
    "-q",
    "--quality",
    "qualities",
    type=QualityList(),
    help="Qualities to measure, such as 1-8 or 1,4,8 (default: all).",
)
@layers_option
@size_option
@click.option(
    "--initial-weights",
    type=EXISTING,
    help="Folder of the uncompressed networks, to measure them in the same run (`small`).",
)
@click.option(
    "--pixels", is_flag=True, help="Measure the package's networks without the codec, too (dicm)."
)
@click.option("-o", "--out", type=Path, help="Write the records: x.json, and x.csv beside it.")
@click.option("--plot", type=Path, help="Draw bytes against accuracy: x.svg.")
@click.option("--cache", type=Path, help="Folder that keeps answers (default: the user's cache).")
@click.option("--no-cache", is_flag=True, help="Keep no answers.")
@model_options
def evaluate(
    qualities: tuple[int, ...] | None,
    layers: tuple[int, ...] | None,
    size: int | None,
    initial_weights: Path | None,
    pixels: bool,
    out: Path | None,
    plot: Path | None,
    cache: Path | None,
    no_cache: bool,
    labels: LabelledData,
    chosen: ChosenModel,
) -> None:
    """Measure accuracy and mean bytes at every quality, from real streams.

    Answers are kept: an interrupted evaluation goes on where it was.
    """
    from cdvision.evaluation.answer_cache import CacheFolder, default_cache_folder
    from cdvision.evaluation.curve import pixel_record, stream_curve
    from cdvision.evaluation.pixel_networks import PixelNetworks
    from cdvision.evaluation.records import (
        attributes_of,
        format_attributes,
        format_records,
        with_losses,
    )

    _check_files(labels.source, out, plot)
    model = chosen.loaded
    measured = _chosen_qualities(qualities, model.card.qualities)
    data, digest = labels.read(model)
    if initial_weights is not None and not hasattr(PixelNetworks, data.task):
        raise click.UsageError(f"--initial-weights: those networks do not {data.task}.")
    kept = None if no_cache else CacheFolder(cache or default_cache_folder(), digest)
    records = stream_curve(model, data, measured, layers=layers, size=size, cache=kept)
    with tempfile.TemporaryDirectory() as folder:
        for networks in _pixel_networks(model, initial_weights, pixels, Path(folder)):
            records.append(pixel_record(data, networks, size=size, cache=kept))
    # What the codec loses is known only where a row without it was measured.
    records = with_losses(records, data.draws)
    click.echo(format_records(records))
    if attributes_of(records[-1]):
        click.echo(f"\nAttributes of the last row:\n\n{format_attributes(records[-1])}")
    title = f"{model.name} on {data.name}, {records[0]['photos']} photos"
    _write_files(records, out, plot, title)


def _check_files(source: Path, out: Path | None, plot: Path | None) -> None:
    # Before anything is measured, which may take hours.
    for path, suffix, option in ((out, ".json", "-o"), (plot, ".svg", "--plot")):
        if path is not None and path.suffix != suffix:
            raise click.UsageError(f"{option}: expected a name that ends with {suffix}.")
        if path is not None:
            check_writable(path)
    for path in (out, out and out.with_suffix(".csv"), plot):
        if path is not None and os.path.realpath(path) == os.path.realpath(source):
            raise OutputError(f"{path} is itself an input, and inputs are never overwritten")


def _write_files(
    records: Sequence[dict[str, Any]], out: Path | None, plot: Path | None, title: str
) -> None:
    from cdvision.evaluation import records as told

    if out is not None:
        write_whole(out, told.strict_json(records).encode())
        write_whole(out.with_suffix(".csv"), told.records_to_csv(records).encode())
    if plot is not None:
        from cdvision.evaluation.plot import write_plot

        plot.parent.mkdir(parents=True, exist_ok=True)
        label = told.FIGURES[told.main_figure(records[0])]
        if records[0].get("resamples"):
            label += ", bars: 95 % interval"
        reference = told.uncompressed_figure(records)
        write_plot(plot, told.curves_of(records), title=title, y_label=label, reference=reference)


def _chosen_qualities(qualities: tuple[int, ...] | None, most: int) -> Sequence[int]:
    if qualities is None:
        return range(1, most + 1)
    wrong = [quality for quality in qualities if not 1 <= quality <= most]
    if wrong:
        raise click.UsageError(f"--quality: this model has 1 to {most}, found {wrong[0]}.")
    return qualities


def _pixel_networks(model: Model, weights: Path | None, own: bool, folder: Path) -> Iterator[Any]:
    """Yield the networks that look at pixels instead of streams."""
    if weights is not None:
        from cdvision.evaluation.pixel_networks import uncompressed_networks

        yield uncompressed_networks(model.package, weights, folder)
    if own:
        from cdvision.evaluation.package_without_codec import PackageWithoutCodec

        yield PackageWithoutCodec(model)
