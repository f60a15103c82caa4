"""Asks the package index which wheels a receiver on aarch64 would get: ``make aarch64-lock``.

pip resolves as if it ran on the target, wheels only; nothing is installed. The oldest Python
decides the versions, and every newer one must have wheels of the same versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.export.wheel_lock import ENGINES, LOCK_FILE, RECEIVER, LockedPackage, WheelLock

PROJECT_FILE = Path(__file__).parent.parent / "pyproject.toml"  # this runs in a checkout alone
PYTHONS = ("3.11", "3.12", "3.13")
# glibc 2.35 is JetPack 6's; a wheel for an older one runs there too.
PLATFORMS = (*(f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1)),
             "manylinux2014_aarch64")  # fmt: skip
FOR_ENGINES = ("onnx>=1.17",)
Found = Mapping[str, Mapping[str, Any]]


def main() -> None:
    """Resolve, and write ``aarch64_lock.json``."""
    project = tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]
    receiver = resolved(project["dependencies"], PYTHONS[0])
    pins = [f"{name}=={entry['version']}" for name, entry in receiver.items()]
    everything = resolved([*pins, *FOR_ENGINES], PYTHONS[0])
    pins = [f"{name}=={entry['version']}" for name, entry in everything.items()]
    others = {python: resolved(pins, python) for python in PYTHONS[1:]}
    wheels = {PYTHONS[0]: everything, **others}
    packages = {
        name: LockedPackage(
            entry["version"],
            RECEIVER if name in receiver else ENGINES,
            tuple(entry["requires"]),
            {python: wheels[python][name]["wheel"] for python in PYTHONS},
        )
        for name, entry in sorted(everything.items())
    }
    lock = WheelLock(date.today().isoformat(), PLATFORMS, PYTHONS, packages)
    LOCK_FILE.write_text(lock.to_json(), encoding="utf-8")


def resolved(requirements: Sequence[str], python: str) -> Found:
    """Return version, requirements and wheel of every package that pip would install.

    Args:
        requirements: in pip's notation.
        python: version of the target's Python, such as ``"3.11"``.

    Raises:
        CdvisionError: a package has no such wheel, or the index does not answer.
    """
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
        "--disable-pip-version-check", "--report=-", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={python}", "--target=unused", *platforms, *requirements,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CdvisionError(f"no aarch64 wheels for Python {python}: {done.stderr.strip()}")
    return {
        entry["metadata"]["name"].lower().replace("_", "-"): _described(entry)
        for entry in json.loads(done.stdout)["install"]
    }


def _described(entry: Mapping[str, Any]) -> dict[str, Any]:
    about = entry["metadata"]
    needs = [text for text in about.get("requires_dist", ()) if "extra ==" not in text]
    wheel = entry["download_info"]["url"].rpartition("/")[2]
    return {"version": about["version"], "requires": needs, "wheel": wheel}


if __name__ == "__main__":
    main()
