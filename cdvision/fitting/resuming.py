"""What makes a run safe to stop: room on the disk, and the options that it was started with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from cdvision.errors import CdvisionError
from cdvision.training.plan import Progress
from cdvision.training.run_folder import CHECKPOINT, read_progress
from cdvision.training.tensor_files import is_written

OPTIONS = "options.json"
SPARE_BYTES = 16  # of disk for each parameter: checkpoint, its successor, package


@contextmanager
def explained_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full disk raises into a CdvisionError of one line that says what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CdvisionError(
            f"{folder} cannot be written ({' '.join(str(error).split())}): make room and start the "
            "same command again, nothing of the training is lost"
        ) from error


def run_progress(run: Path) -> Progress | None:
    """Return how far an interrupted run came, or None where there is none."""
    path = run / CHECKPOINT
    return read_progress(path) if is_written(path) else None


def check_run(run: Path, identity: Mapping[str, Any], parameters: int) -> None:
    """Refuse a run that could not be saved, or that was started with another ``identity``."""
    # The folder may have to be made yet: the disk is that of the nearest one above it.
    place = next(p for p in (run, *run.resolve().parents) if p.is_dir())
    needed, free = SPARE_BYTES * parameters, shutil.disk_usage(place).free
    if free < needed:
        raise CdvisionError(
            f"{run}: expected {needed / 1e6:.0f} MB of free disk for checkpoints and the result, "
            f"found {free / 1e6:.0f} MB"
        )
    path = run / OPTIONS
    # Through JSON and back, so that tuples compare with the lists that were read.
    now = json.loads(json.dumps(identity))
    if is_written(run / CHECKPOINT) and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in now if before.get(k) != now[k])
        if changed:
            raise CdvisionError(
                f"{run} was started with another {', '.join(changed)}: go on with the same "
                "options, or name another folder with -o"
            )
    with explained_full_disk(run):
        run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
