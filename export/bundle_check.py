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

FOLDER = Path(__file__).parent
PIXELS, CONFIDENCE = 2.0, 0.03
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
        faults = faults_of(stream, record, expected["confidence"])
        failed += bool(faults)
        milliseconds = 1e3 * (perf_counter() - start)
        say(f"{record['file']}: {'; '.join(faults) or 'as expected'} ({milliseconds:.0f} ms)")
    count = len(expected["streams"])
    say(f"FAILED: {failed} of {count} streams" if failed else f"OK: {count} streams as expected")
    return 1 if failed else 0


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(line + "\n")


def faults_of(stream: cdvision.Stream, record: Row, least: float) -> list[str]:
    """Ask what the record holds answers to, and say what differs."""
    faults = []
    if latents_sha256(stream) != record["latents_sha256"]:
        faults.append("other latents: the entropy coder is not exact on this machine")
    if "detect" in record:
        found = stream.detect(confidence=least).to_dict()["detections"]
        clear = least + CONFIDENCE
        faults += [f"missing {one}" for one in unmatched(record["detect"], found, clear)]
        faults += [f"unexpected {one}" for one in unmatched(found, record["detect"], clear)]
    if "classify" in record:
        classes = stream.classify(top=len(record["classify"])).to_dict()["classes"]
        faults += probability_faults(classes, record["classify"], "class_name")
    if "attributes" in record:
        attributes = stream.attributes().to_dict()["attributes"]
        faults += probability_faults(attributes, record["attributes"], "name")
    return faults


def latents_sha256(stream: cdvision.Stream) -> str:
    """Hash a stream's latents: the same integers on every machine."""
    parts = (part.astype("<i4").tobytes() for part in stream.latents().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def unmatched(rows: Sequence[Row], others: Sequence[Row], clear: float) -> list[str]:
    """Describe the boxes of at least this confidence that are not among the others."""
    return [
        f"{row['class_name']} {row['confidence']:.2f} at {row['xyxy']}"
        for row in rows
        if row["confidence"] >= clear and not any(same_box(row, other) for other in others)
    ]


def same_box(a: Row, b: Row) -> bool:
    """Whether two boxes are one, as far as float arithmetic can tell."""
    corners = zip(a["xyxy"], b["xyxy"], strict=True)
    return (
        a["class_id"] == b["class_id"]
        and abs(a["confidence"] - b["confidence"]) <= CONFIDENCE
        and all(abs(x - y) <= PIXELS for x, y in corners)
    )


def probability_faults(found: Sequence[Row], expected: Sequence[Row], name: str) -> list[str]:
    """Describe the probabilities that differ; what fell out of a list of the best has none."""
    now = {row[name]: row["probability"] for row in found}
    return [
        f"{row[name]} {now.get(row[name], 0.0):.2f}, not {row['probability']:.2f}"
        for row in expected
        if abs(row["probability"] - now.get(row[name], 0.0)) > CONFIDENCE
    ]


if __name__ == "__main__":
    sys.exit(main())
