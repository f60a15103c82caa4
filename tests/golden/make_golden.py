"""Writes the golden streams: ``python tests/golden/make_golden.py``.

A golden stream is a promise: every later release decodes its bytes to the same latents. Before the
first release, weights may still be replaced, and this program then writes all golden streams anew.
AFTER A RELEASE NO GOLDEN STREAM IS EVER WRITTEN AGAIN, only new ones are added under new names:
one that fails to decode then means that a user's archive fails to decode.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cdvision

FOLDER = Path(__file__).parent
PHOTOS = FOLDER.parent.parent / "examples" / "photos"
PICTURES = (("astronaut.jpg", 1), ("cat.jpg", 4), ("coffee.jpg", 8))
SIZE = 224  # small files, and a map whose sides no hyper-latent's cell divides


def latents_sha256(stream: cdvision.Stream) -> str:
    """Hash the decoded latents: symbols, then hyper-latent, as little-endian int32."""
    latents = stream.latents()
    return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in latents)).hexdigest()


def main() -> None:
    """Encode the pictures, and note what their latents decode to."""
    records = []
    for photo, quality in PICTURES:
        bits = cdvision.encode(PHOTOS / photo, quality=quality, size=SIZE)
        name = f"{Path(photo).stem}-q{quality}.cdv"
        (FOLDER / name).write_bytes(bits)
        stream = cdvision.open(bits)
        records.append(
            {
                "stream": name,
                "photo": photo,
                "quality": quality,
                "bytes": len(bits),
                "model": stream.model.name,
                "latents_sha256": latents_sha256(stream),
            }
        )
    (FOLDER / "golden.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
