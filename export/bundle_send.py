"""The camera's side: photos or video frames to streams, beside the encoder's package.

    python send.py PHOTOS STREAMS                          # a photo or a folder of photos
    ffmpeg -i cam.mp4 -f rawvideo -pix_fmt rgb24 - | python send.py - STREAMS --frame 1280x720

Streams go to files in the folder STREAMS, one a photo or frame, and their bytes are all that a
receiver needs: send them as you like (MQTT, HTTP, a message queue).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import cdvision

MODEL = Path(__file__).parent / "model"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".avif")


def main() -> int:
    """Encode everything that the arguments name; return 0 where no image failed."""
    options = _options()
    model = cdvision.load(MODEL)
    options.streams.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, image in _images(options):
        try:
            bits = model.encode(image, options.quality, size=options.size)
        except (cdvision.CdvisionError, OSError) as error:  # one bad photo stops no camera
            sys.stderr.write(f"{name}: {error}\n")
            failed += 1
            continue
        path = options.streams / f"{name}.cdv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bits)
        sys.stdout.write(f"{path} {len(bits)} bytes\n")
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Encode photos or frames into streams.")
    parser.add_argument("source", help="photo, folder of photos, or - for raw RGB frames on stdin")
    parser.add_argument("streams", type=Path, help="folder that the streams go to")
    parser.add_argument("--quality", type=int, help="1 (smallest) to 8; the model's own if absent")
    parser.add_argument("--size", type=int, help="long side of the network input, in pixels")
    parser.add_argument("--frame", metavar="WIDTHxHEIGHT", help="size of the frames on stdin")
    options = parser.parse_args()
    width, _, height = (options.frame or "").partition("x")
    if (options.source == "-") != (width.isdigit() and height.isdigit()):
        parser.error("frames on stdin (-) and --frame WIDTHxHEIGHT go together")
    if options.source == "-":
        options.frame = (int(height), int(width))
    return options


def _images(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    if options.source == "-":
        frames = read_frames(sys.stdin.buffer, *options.frame)
        yield from ((f"frame-{number:06d}", frame) for number, frame in enumerate(frames, 1))
        return
    source = Path(options.source)
    if not source.is_dir():
        yield source.stem, source
        return
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield str(path.relative_to(source).with_suffix("")), path


def read_frames(file: IO[bytes], height: int, width: int) -> Iterator[NDArray[np.uint8]]:
    """Yield (height, width, 3) frames until the end; the rest of a cut frame is dropped."""
    size = height * width * 3
    while len(content := file.read(size)) == size:
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


if __name__ == "__main__":
    sys.exit(main())
