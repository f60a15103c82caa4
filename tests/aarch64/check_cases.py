"""Runs on the other processor: streams decode to the given latents, latents encode to the streams.

    python check_cases.py FOLDER

Needs cdvision's entropy coders alone (numpy and the native core), and no engine.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

import cdvision
from cdvision.entropy.coder import Latents
from cdvision.stream import read_stream


def faults_below(folder: Path) -> int:
    """Check every case below a folder, print what was found, and count the streams that differ."""
    wrong = 0
    for package in sorted(folder.glob("*/package.txt")):
        model = cdvision.load(Path(package.read_text(encoding="utf-8")))
        for path in sorted(package.parent.glob("*.cdv")):
            start = perf_counter()
            faults = faults_of(model, path)
            wrong += bool(faults)
            said, seconds = "; ".join(faults) or "identical", perf_counter() - start
            print(f"{path.relative_to(folder)}: {said} ({seconds:.1f} s)", flush=True)
    return wrong


def faults_of(model: cdvision.Model, path: Path) -> list[str]:
    """Decode and encode one case."""
    bits, faults = path.read_bytes(), []
    stream = model.open(bits)
    found = stream.latents()
    with np.load(path.with_suffix(".npz")) as case:
        given = {name: case[name] for name in case.files if name != "sha256"}
        recorded = str(case["sha256"]) if "sha256" in case else latents_sha256(given)
    if given.keys() != found.keys() or not all(np.array_equal(found[n], given[n]) for n in given):
        faults.append("decodes to other latents")
    if latents_sha256(found) != recorded:
        faults.append("latents of another hash than recorded")
    bodies = model.package.coder.encode(given, stream.header.quality - 1)
    if bodies != {layer.id: layer.body for layer in read_stream(bits).layers}:
        faults.append("the given latents encode to other bytes")
    return faults


def latents_sha256(latents: Latents) -> str:
    """Hash latents as ``tests/golden/golden.json`` does."""
    parts = (part.astype("<i4").tobytes() for part in latents.values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


if __name__ == "__main__":
    cases = Path(sys.argv[1])
    count = len(list(cases.glob("*/*.cdv")))
    print(f"{count} streams on {platform.machine()}, numpy {np.__version__}", flush=True)
    wrong = faults_below(cases)
    print(f"{wrong} of {count} differ" if wrong else f"all {count} identical")
    sys.exit(bool(wrong) or not count)
