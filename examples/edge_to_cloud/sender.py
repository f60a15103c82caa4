"""The edge: watch a folder, encode each new photo, publish its stream by MQTT."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt

import cdvision

SUFFIXES = (".jpg", ".jpeg", ".png")
LOOK_AGAIN = 0.2  # seconds


def new_photos(folder: Path, count: int) -> Iterator[Path]:
    """Yield ``count`` photos as they come: each when its size was the same in two looks."""
    sizes: dict[Path, int] = {}
    done: set[Path] = set()
    while len(done) < count:
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
            size = path.stat().st_size
            if path not in done and len(done) < count and sizes.get(path) == size > 0:
                done.add(path)
                yield path
            sizes[path] = size
        time.sleep(LOOK_AGAIN)


def main() -> None:
    """Publish ``--count`` photos under TOPIC/NAME and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--topic", default="cdvision/camera-1")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--quality", type=int, default=4)
    options = parser.parse_args()

    model = cdvision.load(threads=1)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect(options.host, options.port)
    client.loop_start()
    for photo in new_photos(options.folder, options.count):
        try:
            bits = model.encode(photo, quality=options.quality)
        except cdvision.CdvisionError as error:
            print(f"sender: {photo.name}: {error}", flush=True)
            bits = b""  # the receiver writes it down as an error: nothing is lost in silence
        client.publish(f"{options.topic}/{photo.name}", bits, qos=1).wait_for_publish()
        print(f"sent {photo.name}: {len(bits):,} bytes", flush=True)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
