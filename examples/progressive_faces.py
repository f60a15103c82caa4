"""Draws faces as more and more layers of their streams arrive, beside HEVC for the same bytes.

Run it with `python examples/progressive_faces.py MODEL IMAGES --labels CSV`: MODEL is the name or
the folder of a face model, IMAGES a folder or tar of aligned faces, of which the csv says which
ones trained nothing (needs the eval extra for HEVC). It writes docs/progressive-faces.png.

A picture of HEVC is the closest one of all its qualities and sizes whose payload, the container not
counted, takes no more bytes than ours; where even its smallest takes more, the tile says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import cdvision
from cdvision.evaluation.labelled import read_rows
from cdvision.evaluation.photo_files import open_photo_files
from cdvision.evaluation.picture_distance import psnr
from cdvision.evaluation.rivals import RIVALS, missing
from cdvision.models.faces.bench.paths import original, rival_paths
from cdvision.stream import truncate_stream

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "docs" / "progressive-faces.png"
FACES, GAP, CAPTION = 8, 8, 20
EXISTING = click.Path(exists=True, path_type=Path)
PAPER, INK, FAINT = "#ffffff", "#1f2328", "#6e7781"

Picture = NDArray[np.uint8]


class Tile(NamedTuple):
    """A picture (R, R, 3), None where there is none, and the line below it."""

    picture: Picture | None
    caption: str


def layer_tiles(model: cdvision.Model, face: bytes, quality: int | None) -> list[Tile]:
    """Return what a receiver sees of a face from the first layer, from two, ... from all."""
    bits = model.encode(face, quality=quality)
    prefixes = [truncate_stream(bits, n) for n in range(1, len(cdvision.inspect(bits).layers) + 1)]
    return [Tile(model.open(part).reconstruct(), f"{len(part)} bytes") for part in prefixes]


class Rival:
    """A picture codec's closest pictures of one face for given bytes.

    Args:
        name: of the codec.
        face: file of the face.
        side: of a face in pixels.
    """

    def __init__(self, name: str, face: bytes, side: int) -> None:
        wanted = original(face, side)[None]
        self._found: list[tuple[int, float, Picture]] = []
        for path in rival_paths(RIVALS[name], side):
            sent = path.send(face)
            picture = path.picture(sent)
            self._found.append((path.payload(sent), float(psnr(picture[None], wanted)[0]), picture))

    def tile(self, most: int) -> Tile:
        """Return the closest picture of at most so many bytes."""
        small = [found for found in self._found if found[0] <= most]
        if not small:
            return Tile(None, f"none below {min(found[0] for found in self._found)}")
        size, _, picture = max(small, key=lambda found: found[1])
        return Tile(picture, f"{size} bytes")


def face_row(model: cdvision.Model, face: bytes, quality: int | None, rival: str) -> list[Tile]:
    """Return the original, and for each number of layers our picture and the rival's."""
    side = model.card.input.size
    row, other = [Tile(original(face, side), "original")], Rival(rival, face, side)
    for tile in layer_tiles(model, face, quality):
        row += [tile, other.tile(int(tile.caption.split()[0]))]
    return row


def draw_sheet(rows: Sequence[Sequence[Tile]], titles: Sequence[str], side: int) -> Image.Image:
    """Lay rows of tiles on a sheet, a title above each column."""
    width = len(titles) * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, CAPTION + GAP + len(rows) * (side + CAPTION + GAP)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for column, title in enumerate(titles):
        x = GAP + column * (side + GAP)
        draw.text((x + side / 2, GAP), title, INK, font, anchor="ma")
        for number, row in enumerate(rows):
            y = CAPTION + GAP + number * (side + CAPTION + GAP)
            picture, caption = row[column]
            if picture is None:
                draw.rectangle((x, y, x + side - 1, y + side - 1), outline=FAINT)
            else:
                sheet.paste(Image.fromarray(picture), (x, y))
            draw.text((x + side / 2, y + side + 2), caption, FAINT, font, anchor="ma")
    return sheet


def read_faces(images: Path, labels: Path | None, split: str, most: int) -> list[bytes]:
    """Return files of faces, at most so many, evenly spread over those of a split."""
    files = open_photo_files(images)
    names = files.names()
    if labels is not None:
        names = [row["file"] for row in read_rows(labels, {"split": split})]
    count = min(most, len(names))
    return [files.read(names[number * len(names) // count]) for number in range(count)]


@click.command()
@click.argument("model")
@click.argument("images", type=EXISTING)
@click.option("--labels", type=EXISTING, help="csv with the columns file and split.")
@click.option("--split", default="val", show_default=True, help="Rows of the csv to draw.")
@click.option("-q", "--quality", type=click.IntRange(1, 8), help="Default: the model's own.")
@click.option("--count", type=click.IntRange(1), default=FACES, show_default=True)
@click.option("-o", "--out", type=Path, default=OUTPUT, show_default="docs/progressive-faces.png")
def main(
    model: str,
    images: Path,
    labels: Path | None,
    split: str,
    quality: int | None,
    count: int,
    out: Path,
) -> None:
    """Draw the faces in IMAGES, a folder or tar, as the layers of MODEL's streams arrive."""
    if (reason := missing(RIVALS["hevc"])) is not None:
        raise click.ClickException(reason)
    loaded = cdvision.load(model)
    faces = read_faces(images, labels, split, count)
    rows = [face_row(loaded, face, quality, "hevc") for face in faces]
    titles = ["original"]
    for number in range(1, (len(rows[0]) - 1) // 2 + 1):
        titles += [f"{number} layer{'s' if number > 1 else ''}", "HEVC intra"]
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(rows, titles, loaded.card.input.size).save(out, optimize=True)
    print(f"drawn: {out}")


if __name__ == "__main__":
    main()
