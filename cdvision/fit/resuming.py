"""What makes a run safe to stop: room on the disk, and the options that it was started with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.fit.network import SplitNetwork
from cdvision.fit.options import FitOptions
from cdvision.fit.photos import PhotoFile
from cdvision.networks.fitted_tap import TapShape
from cdvision.package.loader import ModelPackage
from cdvision.training.checkpoint import read_progress
from cdvision.training.plan import Progress
from cdvision.training.run_folder import CHECKPOINT
from cdvision.training.tensor_files import is_written

OPTIONS = "options.json"
SPARE_BYTES = 16  # of disk for each parameter: checkpoint, its successor, package


def run_progress(run: Path) -> Progress | None:
    """Return how far an interrupted run came, or None where there is none."""
    path = run / CHECKPOINT
    return read_progress(path) if is_written(path) else None


def check_room(out: Path, parameters: int) -> None:
    """Refuse to start what could not be saved."""
    needed = SPARE_BYTES * parameters
    place = next(p for p in (out, *out.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise CdvisionError(
            f"{out}: expected {needed / 1e6:.0f} MB of free disk for checkpoints and the result, "
            f"found {free / 1e6:.0f} MB"
        )


def run_identity(
    package: ModelPackage,
    network: SplitNetwork,
    options: FitOptions,
    files: Sequence[PhotoFile],
    shape: TapShape,
) -> dict[str, Any]:
    """Return what must not change when a run is resumed."""
    return {
        "model": package.card.fingerprint,
        "network": network.facts,
        "pixels": network.pixels.to_dict(),
        "photos": len(files),
        "tap": asdict(shape),
        "size": options.size,
        "tune_tail": options.tune_tail,
        "batch": options.batch,
        "seed": options.seed,
    }


def check_options(run: Path, identity: Mapping[str, Any]) -> None:
    """Keep what a run was started with, and compare when it is resumed."""
    path = run / OPTIONS
    now = json.loads(json.dumps(identity))
    if is_written(run / CHECKPOINT) and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in now if before.get(k) != now[k])
        if changed:
            raise CdvisionError(
                f"{run} was started with another {', '.join(changed)}: go on with the same "
                "options, or name another folder with -o"
            )
    try:
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise CdvisionError(f"{run} cannot be written ({error.strerror}): make room") from error
