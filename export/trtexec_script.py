"""The build of TensorRT engines as a shell script, for machines without TensorRT's Python."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvision.engines.plan_cache import Profile, Shape

SCRIPT_FILE = "build_engines.sh"
MEBIBYTE = 2**20

HEADER = """#!/bin/sh
# Builds TensorRT engines on this machine; they run on this TensorRT version and this GPU alone.
# TensorRT 10: networks are strongly typed by request; 11: always, and the flag does nothing.
# Parity is not checked here: `cdvision export --to tensorrt` does that, where TensorRT's Python
# packages are installed.
set -eu
cd "$(dirname "$0")"
TRTEXEC="${TRTEXEC:-trtexec}"
command -v "$TRTEXEC" >/dev/null || {
    echo "build_engines.sh: no trtexec: set TRTEXEC, often /usr/src/tensorrt/bin/trtexec" >&2
    exit 1
}
"""


@dataclass(frozen=True)
class PlannedBuild:
    """One engine to build; paths are relative to the script's folder."""

    graph: Path
    plan: Path
    profile: Profile


def trtexec_arguments(build: PlannedBuild, *, workspace_bytes: int) -> list[str]:
    """Return the arguments of ``trtexec`` for one engine."""
    return [
        f"--onnx={build.graph}",
        f"--saveEngine={build.plan}",
        "--stronglyTyped",
        "--noTF32",  # 10-bit mantissas: not what fp32 promises
        f"--memPoolSize=workspace:{max(1, workspace_bytes // MEBIBYTE)}M",
        "--timingCacheFile=timing.cache",
        *(
            f"--{option}Shapes={_shapes(build.profile, place)}"
            for place, option in enumerate(("min", "opt", "max"))
        ),
        "--skipInference",
    ]


def _shapes(profile: Profile, place: int) -> str:
    return ",".join(f"{name}:{_dims(triple[place])}" for name, triple in profile.items())


def _dims(shape: Shape) -> str:
    return "x".join(map(str, shape))


def write_script(folder: Path, builds: Sequence[PlannedBuild], *, workspace_bytes: int) -> Path:
    """Write ``build_engines.sh`` and return its path."""
    path = folder / SCRIPT_FILE
    commands = [
        shlex.join(trtexec_arguments(build, workspace_bytes=workspace_bytes)) for build in builds
    ]
    lines = [f'"$TRTEXEC" {command}' for command in commands]
    folders = sorted({str(build.plan.parent) for build in builds})
    text = "\n".join([HEADER, f"mkdir -p {shlex.join(folders)}", *lines]) + "\n"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path
