"""`cdvision export`: a model as files for other runtimes; the work is done in cdvision.export."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import cdvision
from cdvision.cli.command_line import needs_extra
from cdvision.cli.model_options import FOLDER, Decorator, count_option, report_as_json

if TYPE_CHECKING:
    from cdvision import Model

TARGETS = ("onnx", "tensorrt", "triton", "jetson", "sender", "core")
PRECISIONS = ("fp32", "fp16", "int8")
CALIBRATION_PHOTOS = 32
PARITY_PHOTOS = 8
MEBIBYTE = 2**20


def _triple(_: Any, __: Any, value: str | None) -> tuple[int, ...] | None:
    """Read smallest, usual and largest from ``1,4,16``; one number stands for all three."""
    if value is None:
        return None
    parts = value.split(",")
    if len(parts) not in (1, 3) or not all(part.strip().isdigit() for part in parts):
        raise click.BadParameter(f"expected one number or MIN,OPT,MAX, found {value!r}")
    numbers = tuple(int(part) for part in parts)
    return numbers if len(numbers) == 3 else numbers * 3


def _range_option(name: str, help: str) -> Decorator:
    return click.option(name, callback=_triple, metavar="MIN,OPT,MAX", help=help)


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="What for.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option(
    "--weights",
    "--precision",
    "precision",
    type=click.Choice(PRECISIONS),
    default="fp32",
    show_default=True,
    help="Of the weights; for TensorRT also of the arithmetic (jetson: of its TensorRT graphs).",
)
@click.option("--photos", type=FOLDER, help="Photos for parity and times (default: drawn ones).")
@click.option("--calibration", type=FOLDER, help="Photos that set the ranges of int8.")
@click.option("--engines", type=FOLDER, help="Triton: TensorRT engines built on the server.")
@_range_option("--sizes", "TensorRT: sides of the network input, in pixels.")
@_range_option("--batches", "TensorRT: batch sizes (default: 1,4,16).")
@count_option("--workspace", 1024, "TensorRT: scratch memory of a build, in MiB.")
@click.option(
    "--wheel",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Bundles, Triton: cdvision's wheel for the target (default: pip makes one here).",
)
@click.option(
    "--platform",
    type=click.Choice(["aarch64-linux", "x86_64-linux"]),
    default="aarch64-linux",
    show_default=True,
    help="Bundles: the target.",
)
@click.option(
    "--offline",
    metavar="PYTHON",
    help="Bundles: bring every wheel for the platform and this Python, such as 3.12.",
)
@report_as_json
def export(model: str, target: str, folder: Path, as_json: bool, **options: Any) -> None:
    """Write MODEL (a name or package folder) into DIR for another runtime.

    onnx: stand-alone graphs, a model package again. tensorrt: engines, or what builds them. triton:
    a model repository. jetson: a receiver that installs by itself. sender: the camera's side.
    core: the entropy coder as one file, for C programs (docs/c.md).
    """
    if target == "sender" and options["precision"] != "fp32":
        raise click.UsageError(
            "--to sender takes the model's encoder as it is: make a model with other weights by "
            "--to onnx first, and its sender then"
        )
    if target == "core" and options["precision"] != "fp32":
        raise click.UsageError("--to core writes integers alone: leave --weights out")
    if options["precision"] == "int8" and options["calibration"] is None:
        raise click.UsageError("--weights int8 needs --calibration PHOTOS")
    loaded = cdvision.load(model)
    if folder.resolve() == loaded.package.folder.resolve():
        raise click.UsageError(f"{folder} is the model's own folder: name another")
    report = _write(target, loaded, folder, options)
    click.echo(json.dumps(report.to_dict()) if as_json else str(report))


def _write(target: str, model: Model, folder: Path, options: dict[str, Any]) -> Any:
    """Write one target's files, and return its report."""
    precision = options["precision"]
    if target == "core":
        return _part("core_codec").write_core(model, folder)
    if target == "sender":
        return _part("bundle").write_sender_bundle(model, folder, install=_install(options))
    photos = _photos(options)
    if target == "onnx":
        write_onnx = _part("onnx_artefacts").write_onnx
        return write_onnx(model, folder, precision=precision, **photos)
    if target == "triton":
        write_triton = _part("triton").write_triton
        given = {name: options[name] for name in ("engines", "wheel")}
        return write_triton(model, folder, precision=precision, **given, **photos)
    builder, profiles = _part("tensorrt_builder"), _part("tensorrt_profiles")
    shapes = profiles.ShapeRange.for_card(model.card, options["sizes"], options["batches"])
    wanted = builder.TensorrtOptions(precision, shapes, options["workspace"] * MEBIBYTE)
    if target == "tensorrt":
        return builder.write_tensorrt(model, folder, wanted, **photos)
    write_bundle = _part("bundle").write_receiver_bundle
    return write_bundle(model, folder, wanted, **photos, install=_install(options))


def _install(options: dict[str, Any]) -> Any:
    install = options["wheel"], options["offline"], options["platform"]
    return _part("bundle_install").InstallOptions(*install)


def _photos(options: dict[str, Any]) -> dict[str, Sequence[Path]]:
    from cdvision.export.recorded_inputs import photos_in

    return {
        name: photos_in(options[name], most) if options[name] is not None else ()
        for name, most in (("photos", PARITY_PHOTOS), ("calibration", CALIBRATION_PHOTOS))
    }


def _part(module: str) -> Any:
    """Import a part of cdvision.export; most need the package onnx."""
    with needs_extra("export", "this export"):
        return importlib.import_module(f"cdvision.export.{module}")
