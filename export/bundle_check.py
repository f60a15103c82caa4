"""Smoke test of a receiver: the streams beside it must give the answers that they gave before.

    python smoke_test.py                      # ONNX Runtime on the CPU
    python smoke_test.py --engine tensorrt    # once engines are built, see README.md

Latents must be the very same integers. Networks compute in float: a box may move by two pixels, a
confidence by 0.03, and what lies that close to the least confidence may come or go.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import cdvision
from cdvision.tasks import find_task

FOLDER = Path(__file__).parent
PIXELS, CONFIDENCE = 2.0, 0.03
UNTOLD = ("mask", "present")  # a mask's edge and a verdict at its threshold may turn with a bit
Row = Mapping[str, Any]


def main() -> int:
    """Ask every stream everything; return 0 where all answers are the expected ones."""
    parser = argparse.ArgumentParser(description="Check this receiver against expected.json.")
    parser.add_argument("--engine", default="onnx", choices=("onnx", "tensorrt"))
    parser.add_argument("--device", default="cpu", help="of ONNX Runtime: cpu or cuda")
    options = parser.parse_args()
    expected = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
    model = cdvision.load(FOLDER / "model", engine=options.engine, device=options.device)
    failed = 0
    for record in expected["streams"]:
        start = perf_counter()
        stream = model.open((FOLDER / "streams" / record["file"]).read_bytes())
        faults = faults_of(stream, record, expected["options"])
        failed += bool(faults)
        milliseconds = 1e3 * (perf_counter() - start)
        say(f"{record['file']}: {'; '.join(faults) or 'as expected'} ({milliseconds:.0f} ms)")
    count = len(expected["streams"])
    say(f"FAILED: {failed} of {count} streams" if failed else f"OK: {count} streams as expected")
    return 1 if failed else 0


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(line + "\n")


def faults_of(stream: cdvision.Stream, record: Row, options: Mapping[str, Any]) -> list[str]:
    """Ask what the record holds answers to, and say what differs."""
    faults = []
    if latents_sha256(stream) != record["latents_sha256"]:
        faults.append("other latents: the entropy coder is not exact on this machine")
    for name, expected in record["answers"].items():
        asked = find_task(name).taken_from(options)
        found = stream.ask(name, **asked).to_rows()
        # A weaker entry may come or go: the other side's confidence may lie below the least one.
        clear = asked.get("confidence", 0.0) + CONFIDENCE
        faults += [f"missing {one}" for one in unmatched(expected, found, clear)]
        faults += [f"unexpected {one}" for one in unmatched(found, expected, clear)]
    return faults


def latents_sha256(stream: cdvision.Stream) -> str:
    """Hash a stream's latents: the same integers on every machine."""
    parts = (part.astype("<i4").tobytes() for part in stream.latents().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def unmatched(rows: Sequence[Row], others: Sequence[Row], clear: float) -> list[str]:
    """Describe the entries that are clear, and not among the others."""
    return [
        ", ".join(f"{name} {value}" for name, value in row.items() if name not in UNTOLD)
        for row in rows
        # An entry that says nothing of how sure it is, is sure.
        if row.get("confidence", row.get("probability", 1.0)) >= clear
        and not any(alike(row, other) for other in others)
    ]


def alike(a: Row, b: Row) -> bool:
    """Say whether two entries are one: texts and whole numbers equal, shares and pixels close."""
    for name in a.keys() - {*UNTOLD}:
        if not isinstance(a[name], float):
            if a[name] != b[name]:
                return False
            continue
        # A share is at most 1; a side of a box is in pixels, and hardly ever within the first.
        tolerance = CONFIDENCE if max(abs(a[name]), abs(b[name])) <= 1 else PIXELS
        if not abs(a[name] - b[name]) <= tolerance:  # NaN is close to nothing
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
