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
from cdvision.stream import read_stream, write_stream

FOLDER = Path(__file__).parent
PHOTOS = FOLDER.parent.parent / "examples" / "photos"
PICTURES = (("astronaut.jpg", 1), ("cat.jpg", 4), ("coffee.jpg", 8))
COMPACT = "astronaut.jpg"
SIZE = 224  # small files, and a map whose sides no hyper-latent's cell divides


def latents_sha256(stream: cdvision.Stream) -> str:
    """Hash the decoded latents: symbols, then hyper-latent, as little-endian int32."""
    latents = stream.latents()
    return hashlib.sha256(b"".join(part.astype("<i4").tobytes() for part in latents)).hexdigest()


def as_compact(bits: bytes) -> bytes:
    """Write the same layers under the compact header, format version 2."""
    parsed = read_stream(bits)
    names = ("codec", "fingerprint", "width", "height", "input_width", "input_height", "quality")
    fields = {name: getattr(parsed.header, name) for name in names}
    return write_stream(**fields, layers=parsed.layers, compact=True)


def written(name: str, photo: str, bits: bytes) -> dict[str, object]:
    """Write a stream, and return what ``golden.json`` says of it."""
    (FOLDER / name).write_bytes(bits)
    stream = cdvision.open(bits)
    return {
        "stream": name,
        "photo": photo,
        "quality": stream.header.quality,
        "bytes": len(bits),
        "model": stream.model.name,
        "latents_sha256": latents_sha256(stream),
    }


def main() -> None:
    """Encode the pictures, and note what their latents decode to."""
    records = []
    for photo, quality in PICTURES:
        bits = cdvision.encode(PHOTOS / photo, quality=quality, size=SIZE)
        name = f"{Path(photo).stem}-q{quality}"
        records.append(written(f"{name}.cdv", photo, bits))
        if photo == COMPACT:
            records.append(written(f"{name}-compact.cdv", photo, as_compact(bits)))
    (FOLDER / "golden.json").write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
