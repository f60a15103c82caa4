"""`cdvision bench faces`: attributes and pictures of faces at few bytes, beside picture codecs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdvision.cli.dataclass_options import EXISTING
from cdvision.cli.evaluate import QualityList, layers_option
from cdvision.cli.labelled_data import LabelledData, data_options
from cdvision.cli.model_options import ChosenModel, model_options
from cdvision.errors import CdvisionError, ImageError, UnsupportedTask

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.curve import LabelledSet
    from cdvision.evaluation.picture_distance import PictureJudge
    from cdvision.evaluation.rivals import Rival
    from cdvision.models.faces.bench.measure import FaceBenchmark
    from cdvision.models.faces.bench.pixel_classifier import PixelClassifier

DEFAULT_RIVALS = ("jpeg", "webp", "avif", "hevc")


@click.command()
@data_options
@click.option(
    "--classifier",
    type=EXISTING,
    metavar="FOLDER",
    help="What looks at rivals' pictures: a finished `cdvision train faces trunk`, or a face model "
    "(default: the measured one; its encoder and its head were trained on pixels).",
)
@click.option(
    "--thresholds-from",
    metavar="COLUMN=VALUE",
    default="split=train",
    show_default=True,
    help="The last tenth of these rows, which trained nothing, sets the classifier's thresholds.",
)
@click.option(
    "--metrics",
    type=EXISTING,
    metavar="DIR",
    help="Folder of LPIPS's and DISTS's weights (default: where `cdvision bench picture-metrics` "
    "writes them; left out where there are none).",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    metavar="NAME",
    help="jpeg, webp, avif, jxl, hevc or vvc; may be repeated (default: jpeg, webp, avif and "
    "hevc, as far as they work here).",
)
@click.option(
    "-q", "--quality", "qualities", type=QualityList(), help="Such as 1-8 or 1,4,8 (default: all)."
)
@layers_option
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of faces.md, faces.json, faces-*.svg, and of the records so far.",
)
@model_options
def faces(
    classifier: Path | None,
    thresholds_from: str,
    metrics: Path | None,
    rivals: tuple[str, ...],
    qualities: tuple[int, ...] | None,
    layers: tuple[int, ...] | None,
    out: Path,
    labels: LabelledData,
    chosen: ChosenModel,
) -> None:
    """Measure a face model: attributes and pictures from every layer, beside picture codecs.

    Attributes come from the bitstream; a rival's pictures are shown to a classifier that was
    trained on pixels, and so are ours. Records are kept in the folder: an interrupted run goes on
    where it was.
    """
    if labels.measured_task != "attributes":
        raise click.UsageError("faces are measured by --attributes.")
    if "=" not in thresholds_from:
        raise click.UsageError("--thresholds-from: expected COLUMN=VALUE.")
    try:
        from cdvision.models.faces.bench.pixel_classifier import PixelClassifier
    except ImportError as error:
        raise CdvisionError(
            "bench faces needs torch: install it with `pip install 'cdvision[train]'`"
        ) from error
    from cdvision.models.faces.bench.measure import FaceBenchmark
    from cdvision.models.faces.bench.paths import pixel_path, rival_paths, stream_paths
    from cdvision.models.faces.bench.report import write_face_report

    model = chosen.loaded
    if "reconstruct" not in model.card.tasks:
        raise UnsupportedTask(model.no_task_message("reconstruct"))
    data, _ = labels.read(model)
    looks = PixelClassifier(classifier or model.package.folder)
    found, left_out = _rivals(rivals)
    taken, side = _taken(model, data), model.card.input.size
    _fit_thresholds(looks, labels, thresholds_from, side)
    qualities = qualities or tuple(range(1, model.card.qualities + 1))
    layers = layers or tuple(range(1, len(model.package.coder.layers) + 1))
    paths = [pixel_path(side), *stream_paths(model, qualities, layers)]
    paths += [path for rival in found for path in rival_paths(rival, side)]
    benchmark = FaceBenchmark(taken, labels.source, paths, looks, _judge(metrics), side)
    title = model.name if classifier is None else classifier.name
    facts = {
        "codecs": {rival.name: rival.describe() for rival in found},
        "left_out": dict(left_out),
        "refused": len(data.photos) - len(taken.photos),
        "classifier": f"{title} ({looks.digest[:8]}), thresholds from the last tenth of "
        f"{thresholds_from}",
    }
    click.echo(write_face_report(facts | _measured(model, benchmark, layers, out), out))


def _measured(
    model: Model, benchmark: FaceBenchmark, layers: tuple[int, ...], out: Path
) -> dict[str, Any]:
    """Measure every path, and return what was measured, with what, and on what."""
    from cdvision.machine import machine, versions
    from cdvision.models.faces.bench.measure import attribute_times

    metrics = benchmark.judge.metrics
    return {
        "ours": f"cdvision {model.name}",
        "fingerprint": model.card.fingerprint,
        "data": benchmark.data.name,
        "side": benchmark.side,
        "machine": machine(),
        "versions": versions("cdvision", "numpy", "onnxruntime", "pillow", "torch"),
        "metrics": metrics.digest if metrics is not None else None,
        "speed": attribute_times(model, benchmark.data.photos, layers),
        "records": benchmark.run(out),
    }


def _taken(model: Model, data: LabelledSet) -> LabelledSet:
    """Leave out, for every codec, the pictures that the model does not take for faces."""
    from tqdm import tqdm

    photos, refusal = [], None
    for photo in tqdm(data.photos, desc="looking for faces", unit="face", disable=None):
        try:
            # Every quality asks the same score; the lowest has least to code.
            model.encode(photo.data, quality=1)
            photos.append(photo)
        except ImageError as error:
            refusal = error
    if refusal is not None and not photos:
        raise refusal
    return replace(data, photos=photos)


def _fit_thresholds(
    classifier: PixelClassifier, source: LabelledData, condition: str, side: int
) -> None:
    """Set the classifier's thresholds on faces that trained nothing."""
    import numpy as np

    from cdvision.evaluation.labelled import attribute_photos
    from cdvision.models.faces.bench.paths import original
    from cdvision.models.faces.bench.pixel_classifier import held_out, present_in

    column, value = condition.split("=", 1)
    found, table = attribute_photos(source.source, source.images or Path(), where={column: value})
    photos = list(held_out(found))
    present = present_in(table, classifier.names, [photo.label for photo in photos])
    pictures = np.stack([original(photo.data, side) for photo in photos])
    classifier.fit_thresholds(pictures, present)


def _judge(folder: Path | None) -> PictureJudge:
    """Return what compares pictures: with LPIPS and DISTS where their weights were prepared."""
    from cdvision.evaluation.picture_distance import PictureJudge
    from cdvision.evaluation.picture_distance.metric_weights import WEIGHTS_FILE, default_folder
    from cdvision.evaluation.picture_distance.picture_metrics import load_picture_metrics

    if folder is None and not (default_folder() / WEIGHTS_FILE).is_file():
        return PictureJudge()
    return PictureJudge(load_picture_metrics(folder))


def _rivals(names: tuple[str, ...]) -> tuple[list[Rival], Mapping[str, str]]:
    """Return the rivals that were asked for, or the usual ones that work here."""
    from cdvision.bench.rate import chosen_rivals

    found, left_out = chosen_rivals(names)
    if names:
        return found, left_out
    usual = {name: why for name, why in left_out.items() if name in DEFAULT_RIVALS}
    return [rival for rival in found if rival.name in DEFAULT_RIVALS], usual
