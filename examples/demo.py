"""Photos to streams of a few kilobytes, then classes and boxes from the streams alone.

Run it with `make demo`, or with `python examples/demo.py PHOTO...` for photos of yours.
It writes one picture, out/demo.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

from PIL import Image

import cdvision

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "out" / "demo.png"
QUALITY = 4
TILE_WIDTH, COLUMNS, MARGIN = 560, 3, 16


def main(photos: list[Path]) -> None:
    """Encode every photo, print what its stream tells, and draw it all on one sheet."""
    warm_up = cdvision.open(cdvision.encode(photos[0], quality=QUALITY))
    warm_up.classify(), warm_up.detect()  # loads and compiles, once: not part of the times
    tiles = [show(photo) for photo in photos]
    OUTPUT.parent.mkdir(exist_ok=True)
    contact_sheet(tiles).save(OUTPUT)
    print(f"drawn: {OUTPUT}")


def show(photo: Path) -> Image.Image:
    """Print one photo's bytes, classes, boxes and times; return the photo with its boxes."""
    start = perf_counter()
    bits = cdvision.encode(photo, quality=QUALITY)
    encoded = perf_counter()
    stream = cdvision.open(bits)  # decoded once, asked twice
    top, boxes = stream.classify(top=5), stream.detect(confidence=0.35, max_detections=10)
    answered = perf_counter()

    picture = Image.open(photo).convert("RGB")
    jpeg = photo.stat().st_size
    print(f"{photo.name}  {picture.width}x{picture.height} pixels")
    print(f"  {len(bits):,} bytes, {len(bits) / jpeg:.1%} of the file's {jpeg:,}")
    times = [f"{1e3 * seconds:.0f} ms" for seconds in (encoded - start, answered - encoded)]
    print(f"  encode {times[0]}, both answers from the stream {times[1]}")
    names = [f"{row.class_name.split(',')[0]} {row.probability:.0%}" for row in top]
    print("  top 5: " + ", ".join(names))
    for box in boxes:
        left, upper, right, lower = (round(float(side)) for side in box.xyxy)
        print(f"  {box.class_name:<14} {box.confidence:.2f}  [{left}, {upper}, {right}, {lower}]")
    print()
    caption = f"{len(bits):,} bytes (JPEG file: {jpeg:,}) - {names[0]}"
    picture = picture.resize((TILE_WIDTH, round(TILE_WIDTH * picture.height / picture.width)))
    return boxes.draw(picture, caption=caption)


def contact_sheet(tiles: list[Image.Image]) -> Image.Image:
    """Lay tiles of one width in columns, each new one where the column is shortest."""
    columns = min(COLUMNS, len(tiles))
    heights = [MARGIN] * columns
    places = []
    for tile in tiles:
        column = heights.index(min(heights))
        places.append((MARGIN + column * (TILE_WIDTH + MARGIN), heights[column]))
        heights[column] += tile.height + MARGIN
    sheet = Image.new("RGB", (MARGIN + columns * (TILE_WIDTH + MARGIN), max(heights)), "white")
    for tile, place in zip(tiles, places, strict=True):
        sheet.paste(tile, place)
    return sheet


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted((HERE / "photos").glob("*.jpg")))
