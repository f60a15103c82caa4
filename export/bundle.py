"""``cdvision export --to jetson`` and ``--to sender``: folders that install by themselves.

::

    receiver: wheel, requirements, model/ (no encoder), tensorrt/, streams/ + expected.json,
              smoke_test.py, README.md
    sender:   wheel, requirements, model/ (the encoder alone), send.py, README.md

Neither needs PyTorch. An offline bundle holds the wheels that its requirements name, too.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from cdvision.export.bundle_check import latents_sha256
from cdvision.export.bundle_install import (
    ENGINE_REQUIREMENTS,
    MADE_HERE,
    InstallOptions,
    write_install,
)
from cdvision.export.export_run import ExportReport
from cdvision.export.partial_package import write_receiver_package, write_sender_package
from cdvision.export.recorded_inputs import drawn_photos
from cdvision.export.tensorrt_builder import TensorrtOptions, write_tensorrt
from cdvision.model import Model
from cdvision.photo import ImageLike
from cdvision.tasks import answered_by

CODE = Path(__file__).parent
CHECKED = {"confidence": 0.1, "top": 5}  # what expected.json asks, of the tasks that take it
MODEL, STREAMS, GRAPHS = "model", "streams", "tensorrt"


def write_receiver_bundle(
    model: Model,
    folder: Path,
    options: TensorrtOptions,
    *,
    photos: Sequence[ImageLike] = (),
    calibration: Sequence[ImageLike] = (),
    install: InstallOptions = MADE_HERE,
) -> ExportReport:
    """Write everything that a Jetson, or any receiver, needs to answer from streams.

    Args:
        model: a whole model, on any engine.
        folder: made where missing.
        options: of the graphs for TensorRT; the package's own graphs stay as they are.
        photos: become the streams of the smoke test; three drawn pictures where empty.
        calibration: photos that set the ranges of INT8.
        install: how pip installs it.

    Raises:
        ModelError: the model has no encoder, or a graph loses too much.
        CdvisionError: INT8 without calibration photos; pip makes or finds no wheel.
    """
    receiver = Model(write_receiver_package(model.package, folder / MODEL))
    streams = write_streams(model, photos or drawn_photos(), folder / STREAMS)
    answers = json.dumps(expected_answers(receiver, streams), indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(answers + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        graphs = write_tensorrt(
            receiver,
            folder / GRAPHS,
            options,
            photos=streams,
            calibration=_calibration_streams(model, calibration, Path(scratch)),
            elsewhere=True,
        )
    shutil.copyfile(CODE / "bundle_check.py", folder / "smoke_test.py")
    write_install(folder, install, ENGINE_REQUIREMENTS)
    placed = tuple(replace(graph, file=f"{GRAPHS}/{graph.file}") for graph in graphs.graphs)
    report = replace(graphs, target="jetson", graphs=placed, folder=folder)
    return _finished(report, "receiver_readme.md")


def write_sender_bundle(
    model: Model, folder: Path, *, install: InstallOptions = MADE_HERE
) -> ExportReport:
    """Write everything that a camera's side needs to encode; arguments as for a receiver.

    Raises:
        ModelError: the model has no encoder.
        CdvisionError: pip makes or finds no wheel.
    """
    write_sender_package(model.package, folder / MODEL)
    shutil.copyfile(CODE / "bundle_send.py", folder / "send.py")
    write_install(folder, install)
    report = ExportReport(
        model.name, "sender", "as in the package", "none: the package's own graph", 0, (), folder
    )
    return _finished(report, "sender_readme.md")


def write_streams(
    model: Model, photos: Sequence[ImageLike], folder: Path, quality: int | None = None
) -> list[Path]:
    """Encode photos into files ``NUMBER-NAME.cdv`` of a folder and return their paths, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, photo in enumerate(photos, 1):
        name = photo.stem if isinstance(photo, Path) else "drawn"
        paths.append(folder / f"{number}-{name}.cdv")
        paths[-1].write_bytes(model.encode(photo, quality))
    return paths


def expected_answers(model: Model, streams: Sequence[Path]) -> dict[str, Any]:
    """Answer from streams as JSON values; ``bundle_check.py`` compares with them."""
    records = []
    for path in streams:
        stream = model.open(path.read_bytes())
        answers = {
            task.name: stream.ask(task.name, **task.taken_from(CHECKED)).to_rows()
            for task in answered_by(model.card.tasks)
            if task.in_tables
        }
        latents = latents_sha256(stream)
        records.append({"file": path.name, "latents_sha256": latents, "answers": answers})
    return {"model": model.name, "options": CHECKED, "streams": records}


def _calibration_streams(model: Model, photos: Sequence[ImageLike], folder: Path) -> list[Path]:
    """Encode each photo at the smallest, the usual and the largest rate."""
    # As ``record_inputs`` does with photos: here a receiver takes streams, and cannot encode.
    qualities = sorted({1, model.card.default_quality, model.card.qualities})
    return [
        path
        for quality in qualities
        for path in write_streams(model, photos, folder / f"quality-{quality}", quality)
    ]


def _finished(report: ExportReport, readme: str) -> ExportReport:
    """Write a bundle's ``README.md``, and ``report.json`` with the size of the whole."""
    template = Template((CODE / readme).read_text(encoding="utf-8"))
    text = template.substitute(model=report.model, precision=report.precision)
    (report.folder / "README.md").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in report.folder.rglob("*") if path.is_file())
    return replace(report, notes={**report.notes, "bundle_bytes": size}).write()
