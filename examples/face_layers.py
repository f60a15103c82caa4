"""Draws docs/faces.png: a face as the layers of its stream arrive, at three qualities.

    python examples/face_layers.py

The face is Eileen Collins's (NASA, public domain), which no model here was trained on.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import cdvision
from cdvision.stream import truncate_stream

ROOT = Path(__file__).parent.parent
PHOTO, OUT = ROOT / "examples" / "photos" / "astronaut.jpg", ROOT / "docs" / "faces.png"
LANDMARKS = [(203, 101), (245, 103), (223, 126), (203, 140), (243, 140)]  # eyes, nose, mouth
QUALITIES = (1, 4, 8)
SIDE, CAPTION, GAP = 192, 26, 8


def main() -> None:
    """Encode, cut after each layer, rebuild, and lay out with the bytes beneath."""
    face = cdvision.crop_face(Image.open(PHOTO), LANDMARKS)
    model = cdvision.load("hsc")
    cells = [[(Image.fromarray(face), "original, 128 x 128")]]
    for quality in QUALITIES:
        bits = model.encode(face, quality)
        streams = [truncate_stream(bits, layers) for layers in (1, 2)]
        pictures = [Image.fromarray(model.reconstruct(stream)) for stream in streams]
        captions = [
            f"{layers}, {len(stream)} bytes"
            for layers, stream in zip(("first layer", "both layers"), streams, strict=True)
        ]
        cells.append(list(zip(pictures, captions, strict=True)))
    sheet = Image.new("RGB", (len(cells) * (SIDE + GAP), 2 * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, entries in enumerate(cells):
        for row, (picture, caption) in enumerate(entries):
            left, top = column * (SIDE + GAP), row * (SIDE + CAPTION)
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
            draw.text((left + 4, top + SIDE + 4), caption, fill="black", font=font)
    sheet.save(OUT, optimize=True)
    print(f"{OUT}: {', '.join(cdvision.attributes(streams[0], model=model).present_names)}")


if __name__ == "__main__":
    main()
