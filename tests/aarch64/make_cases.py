"""Writes what another processor must reproduce: streams, and the latents that were put into them.

    python tests/aarch64/make_cases.py FOLDER

Every codec takes part: the default model's golden streams, and streams of that model and of the
tiny ones at three qualities. One folder a model: its package's path, ``*.cdv``, and ``*.npz``.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

import cdvision
from cdvision.export.recorded_inputs import drawn_photos
from cdvision.package.registry import MODELS

TESTS = Path(__file__).parent.parent
GOLDEN = TESTS / "golden"
PACKAGES = (
    MODELS / "small" / "packages" / "small",
    *sorted((TESTS / "packages").glob("test-*")),
)
QUALITIES = (1, 4, 8)


def write_cases(folder: Path) -> list[Path]:
    """Write all cases below a folder and return their streams."""
    streams = _write_golden(folder)
    streams += [_write_coded(package, folder / package.name) for package in PACKAGES]
    return [path for paths in streams for path in paths]


def _write_golden(folder: Path) -> list[list[Path]]:
    """Golden streams by model, with the latents of this machine and their recorded hash."""
    for record in json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8")):
        tiny = TESTS / "packages" / record["model"]
        model = cdvision.load(tiny if tiny.is_dir() else record["model"])
        below = folder / f"golden-{model.name}"
        _name_package(below, model.package.folder)
        path = Path(shutil.copy(GOLDEN / record["stream"], below))
        latents = model.open(path.read_bytes()).latents()
        np.savez(path.with_suffix(".npz"), **latents, sha256=record["latents_sha256"])
    return [sorted(below.glob("*.cdv")) for below in sorted(folder.glob("golden-*"))]


def _write_coded(package: Path, folder: Path) -> list[Path]:
    """Streams of a drawn picture, with the latents that the encoder put into them."""
    from cdvision.photo import fit_photo, read_photo

    model, picture = cdvision.load(package, threads=1), drawn_photos()[0]
    _name_package(folder, package)
    for quality in QUALITIES:
        fitted = fit_photo(read_photo(picture), model.card.input)
        latents = model.encode_latents(fitted, quality)
        path = folder / f"q{quality}.cdv"
        path.write_bytes(model.encode(picture, quality))
        np.savez(path.with_suffix(".npz"), **latents)
    return sorted(folder.glob("*.cdv"))


def _name_package(folder: Path, package: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.txt").write_text(str(package), encoding="utf-8")


if __name__ == "__main__":
    write_cases(Path(sys.argv[1]))
