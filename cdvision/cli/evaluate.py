"""`cdvision eval`: accuracy and bytes of a model's streams on labelled photos."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.input_files import InputFile
from cdvision.cli.labelled_data import LabelledData, data_options, existing
from cdvision.cli.model_options import ChosenModel, model_options, size_option
from cdvision.cli.output_files import OutputFiles

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.answer_cache import CacheFolder
    from cdvision.evaluation.curve import LabelledSet

    _QualityType = click.ParamType[tuple[int, ...]]
else:
    _QualityType = click.ParamType  # older releases of click take no type here


class QualityList(_QualityType):
    """Qualities (or layers) such as ``1-8`` or ``1,4,8``, as a sorted tuple.

    Args:
        noun: what is counted.
    """

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
    type=existing,
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
    **options: Any,
) -> None:
    """Measure accuracy and mean bytes at every quality, from real streams.

    Answers are kept: an interrupted evaluation goes on where it was.
    """
    from cdvision.evaluation.curve import stream_curve
    from cdvision.evaluation.losses import with_losses
    from cdvision.evaluation.pixel_networks import PixelNetworks
    from cdvision.evaluation.records import attributes_of, format_attributes, format_records

    source = LabelledData(**{f.name: options.pop(f.name) for f in fields(LabelledData)})
    source.check()
    files = _Files(source.source, out, plot)
    model = ChosenModel(**options).loaded
    chosen = _chosen(qualities, model.card.qualities)
    data, digest = source.read(model)
    if initial_weights is not None and not hasattr(PixelNetworks, data.task):
        raise click.UsageError(f"--initial-weights: those networks do not {data.task}.")
    kept = None if no_cache else _cache_folder(cache, digest)
    records = stream_curve(model, data, chosen, layers=layers, size=size, cache=kept)
    if initial_weights is not None:
        records.append(_reference_record(model, initial_weights, data, size, kept))
    if pixels:
        records.append(_own_record(model, data, size, kept))
    records = with_losses(records, data.draws)
    click.echo(format_records(records))
    if attributes_of(records[-1]):
        click.echo(f"\nAttributes of the last row:\n\n{format_attributes(records[-1])}")
    files.write(records, title=f"{model.name} on {data.name}, {records[0]['photos']} photos")


class _Files:
    """The files that the options ask for; refused before anything is measured."""

    def __init__(self, source: Path, out: Path | None, plot: Path | None) -> None:
        for path, suffix, option in ((out, ".json", "-o"), (plot, ".svg", "--plot")):
            if path is not None and path.suffix != suffix:
                raise click.UsageError(f"{option}: expected a name that ends with {suffix}.")
        self._out, self._plot = out, plot
        self._source = InputFile(str(source), source, Path(source.name))
        for path in (out, out.with_suffix(".csv") if out is not None else None, plot):
            if path is not None:
                self._outputs(path).check(self._source)

    def write(self, records: Sequence[dict[str, Any]], *, title: str) -> None:
        """Write what was asked for."""
        from cdvision.evaluation.records import records_to_csv, strict_json

        if self._out is not None:
            table = self._out.with_suffix(".csv")
            self._outputs(self._out).write(self._source, strict_json(records).encode())
            self._outputs(table).write(self._source, records_to_csv(records).encode())
        if self._plot is not None:
            self._plot.parent.mkdir(parents=True, exist_ok=True)
            _draw(self._plot, records, title)

    def _outputs(self, path: Path) -> OutputFiles:
        return OutputFiles([self._source], suffix=path.suffix, file=path, force=True)


def _draw(path: Path, records: Sequence[dict[str, Any]], title: str) -> None:
    from cdvision.evaluation.plot import write_plot
    from cdvision.evaluation.records import FIGURES, curves_of, main_figure, uncompressed_figure

    label = FIGURES[main_figure(records[0])]
    if records[0].get("resamples"):
        label += ", bars: 95 % interval"
    reference = uncompressed_figure(records)
    write_plot(path, curves_of(records), title=title, y_label=label, reference=reference)


def _chosen(qualities: tuple[int, ...] | None, most: int) -> Sequence[int]:
    if qualities is None:
        return range(1, most + 1)
    wrong = [quality for quality in qualities if not 1 <= quality <= most]
    if wrong:
        raise click.UsageError(f"--quality: this model has 1 to {most}, found {wrong[0]}.")
    return qualities


def _cache_folder(folder: Path | None, digest: str) -> CacheFolder:
    from cdvision.evaluation.answer_cache import CacheFolder, default_cache_folder

    return CacheFolder(folder or default_cache_folder(), digest)


def _own_record(
    model: Model, data: LabelledSet, size: int | None, cache: CacheFolder | None
) -> dict[str, Any]:
    from cdvision.evaluation.curve import pixel_record
    from cdvision.evaluation.package_without_codec import PackageWithoutCodec

    return pixel_record(data, PackageWithoutCodec(model), size=size, cache=cache)


def _reference_record(
    model: Model,
    initial_weights: Path,
    data: LabelledSet,
    size: int | None,
    cache: CacheFolder | None,
) -> dict[str, Any]:
    from cdvision.evaluation.curve import pixel_record
    from cdvision.evaluation.pixel_networks import uncompressed_networks

    with tempfile.TemporaryDirectory() as folder:
        reference = uncompressed_networks(model.package, initial_weights, Path(folder))
        return pixel_record(data, reference, size=size, cache=cache)
