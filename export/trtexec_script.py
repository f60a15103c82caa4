"""The build of TensorRT engines as a shell script, for machines without TensorRT's Python."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdvision.engines.plan_cache import Profile

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
        *(f"--{kind}Shapes={shapes}" for kind, shapes in _shapes(build.profile).items()),
        "--skipInference",
    ]


def _shapes(profile: Profile) -> dict[str, str]:
    # trtexec's notation: image:1x416x416x3,quality:1
    return {
        kind: ",".join(
            f"{name}:{'x'.join(map(str, triple[place]))}" for name, triple in profile.items()
        )
        for place, kind in enumerate(("min", "opt", "max"))
    }


def write_script(folder: Path, builds: Sequence[PlannedBuild], *, workspace_bytes: int) -> Path:
    """Write ``build_engines.sh`` and return its path."""
    path = folder / "build_engines.sh"
    lines = [HEADER, f"mkdir -p {shlex.join(sorted({str(build.plan.parent) for build in builds}))}"]
    for build in builds:
        command = shlex.join(trtexec_arguments(build, workspace_bytes=workspace_bytes))
        lines.append(f'"$TRTEXEC" {command}')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)
    return path
