"""Writes the golden sequence where it is missing: ``python tests/golden/make_golden_sequence.py``.

A golden sequence is a promise, as a golden stream is: what stands is never written again.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path

import cdvision
from cdvision.stream.sequence import SequenceWriter

FOLDER = Path(__file__).parent
RECORD = FOLDER / "golden-sequence.json"


def latents_sha256(data: bytes) -> list[str]:
    """Hash what a receiver has after each packet, as little-endian int32."""
    return [
        hashlib.sha256(
            b"".join(
                part.astype("<i4").tobytes()
                for part in view.stream.latents_for("nanodet_plus_m").values()
            )
        ).hexdigest()
        for view in cdvision.open_video(data)
        if view.stream is not None
    ]


def main() -> None:
    """Write the sequence and its record."""
    sys.path.insert(0, str(FOLDER.parent))
    from moving_scene import packets

    name = "cat-q4.cdvs"
    if (FOLDER / name).exists():
        return
    file = io.BytesIO()
    writer = SequenceWriter(file)
    for packet in packets():
        writer.write(packet)
    writer.close()
    (FOLDER / name).write_bytes(file.getvalue())
    record = {
        "sequence": name,
        "bytes": len(file.getvalue()),
        "latents_sha256": latents_sha256(file.getvalue()),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
