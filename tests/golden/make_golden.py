"""Writes the golden streams that are missing: ``python tests/golden/make_golden.py``.

A golden stream is a promise: every later release decodes its bytes to the same latents. So this
program only adds streams, under new names; one that stands is never written again. A golden stream
that fails to decode means that a user's archive fails to decode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import cdvision
from cdvision.stream import read_stream, truncate_stream, write_stream

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parent.parent
PHOTOS = REPOSITORY / "examples" / "photos"
PACKAGES = FOLDER.parent / "packages"
RECORDS = FOLDER / "golden.json"
SMALL = (("astronaut.jpg", 1), ("cat.jpg", 4), ("coffee.jpg", 8))
COMPACT = "astronaut.jpg"
FACE = "astronaut-face.png"
MAPS, FACES = ("test-dicm-re", "test-dicm"), ("test-hsc", "test-sfic-style")
SIZE = 224  # small files, and a map whose sides no hyper-latent's cell divides
MAP_SIZE = 320  # a multiple of 32 and of 64


def latents_sha256(stream: cdvision.Stream) -> str:
    """Hash the decoded latents in the order of the card's layers, as little-endian int32."""
    parts = [part.astype("<i4").tobytes() for part in stream.latents().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def as_compact(bits: bytes) -> bytes:
    """Write the same layers under the compact header, format version 2."""
    parsed = read_stream(bits)
    names = ("codec", "fingerprint", "width", "height", "input_width", "input_height", "quality")
    fields = {name: getattr(parsed.header, name) for name in names}
    return write_stream(**fields, layers=parsed.layers, compact=True)


def golden_streams() -> Iterator[tuple[str, str, str | Path, bytes]]:
    """Yield name, photo, model and bytes of every golden stream."""
    for photo, quality in SMALL:
        bits = cdvision.encode(PHOTOS / photo, quality=quality, size=SIZE)
        name = f"{Path(photo).stem}-q{quality}"
        yield f"{name}.cdv", photo, "small", bits
        if photo == COMPACT:
            yield f"{name}-compact.cdv", photo, "small", as_compact(bits)
    for task, layer in (("classify", "descriptor"), ("detect", "map")):
        bits = cdvision.encode(PHOTOS / "cat.jpg", quality=4, size=SIZE, tasks=[task])
        yield f"cat-q4-{layer}.cdv", "cat.jpg", "small", bits
    for quality in (1, 4, 8):
        bits = cdvision.encode(PHOTOS / FACE, quality=quality, model="hsc")
        yield f"hsc-q{quality}.cdv", FACE, "hsc", bits
    yield "hsc-q8-base.cdv", FACE, "hsc", truncate_stream(bits, 1)
    yield from test_package_streams()


def test_package_streams() -> Iterator[tuple[str, str, Path, bytes]]:
    """Yield the streams of the tiny packages; photos of no face do for those of faces."""
    for name in (*MAPS, *FACES):
        for photo, quality in (("rocket.jpg", 3), ("pavilion.jpg", 8)):
            size = MAP_SIZE if name in MAPS else None
            model = PACKAGES / name
            bits = cdvision.encode(
                PHOTOS / photo, quality=quality, model=model, size=size, check=False
            )
            yield f"{name}-q{quality}.cdv", photo, model, bits
        if name in FACES:
            yield f"{name}-q8-base.cdv", photo, model, truncate_stream(bits, 1)


def written(name: str, photo: str, model: str | Path, bits: bytes) -> dict[str, object]:
    """Write a stream, and return what ``golden.json`` says of it."""
    (FOLDER / name).write_bytes(bits)
    stream = cdvision.open(bits, model=model)
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
    records = json.loads(RECORDS.read_text(encoding="utf-8"))
    standing = {record["stream"] for record in records}
    for name, photo, model, bits in golden_streams():
        if name not in standing:
            records.append(written(name, photo, model, bits))
    RECORDS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
