"""Draws how training views are cut: heat map, its box, and crops whose centres lie in the box.

Run it with `python examples/semantic_crops.py WEIGHTS [PHOTO...]`, where WEIGHTS is the folder that
holds mobilenet_v2.safetensors (needs the torch extra). It writes docs/semantic-crops.jpg: on the
left of each pair the photo with its heat map and box, on the right the crops and their centres.

Training takes the heat from the last convolution of the network that it trains. The picture takes
it from a whole ImageNet network at hand, MobileNetV2: the third stage of ResNet-50 v2, the last one
published, is too early to know objects (see TRAINING.md).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from cdvision.models.dicm.training.semantic_crops import Box, draw_crop, heat_map, object_boxes
from cdvision.models.dicm.training.views import HEAT_SIDE, shrink
from cdvision.networks.initial_weights import load_mobilenet

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "docs" / "semantic-crops.jpg"
CHOSEN = ("cat", "coffee", "rocket", "pavilion")
WIDTH, GAP, CROPS = 360, 8, 8
COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#42d4f4", "#f032e6", "#bfef45")


def main(weights: Path, photos: list[Path]) -> None:
    """Draw every photo, and stack the drawings in two columns."""
    network, rng = load_network(weights), np.random.default_rng(0)
    rows = [draw_photo(network, photo, rng) for photo in photos]
    sheet = stack([stack(rows[i : i + 2], across=True) for i in range(0, len(rows), 2)])
    sheet.save(OUTPUT, quality=85)
    print(f"drawn: {OUTPUT}")


def load_network(weights: Path) -> nn.Sequential:
    """Return MobileNetV2 up to its last convolution, whose channels the heat map sums."""
    front, tail = load_mobilenet(weights)
    return nn.Sequential(front, *tail.features.values()).eval()


def draw_photo(
    network: nn.Module, photo: Path, rng: np.random.Generator, *, width: int = WIDTH
) -> Image.Image:
    """Return the photo twice: with heat and box, and with the crops that training would cut."""
    with Image.open(photo) as file:
        picture = file.convert("RGB")
    picture = picture.resize((width, round(width * picture.height / picture.width)))
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    with torch.no_grad():
        heat = heat_map(network(shrink(pixels, HEAT_SIDE)), (HEAT_SIDE, HEAT_SIDE))
    box = Box(*object_boxes(heat)[0].tolist())
    left = overlay(picture, heat[0].numpy())
    outline(left, box)
    return stack([left, with_crops(picture, box, rng)], across=True)


def overlay(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Tint the photo from blue (cold) to red (hot)."""
    grey = np.array(Image.fromarray(heat).resize(picture.size, Image.Resampling.BILINEAR))
    colour = np.stack([grey, 0.5 - np.abs(grey - 0.5), 1 - grey], axis=2) * 255
    return Image.blend(picture, Image.fromarray(colour.clip(0, 255).astype(np.uint8)), 0.5)


def outline(picture: Image.Image, box: Box) -> None:
    """Draw the object's box in white, edged in black."""
    width, height = picture.size
    edges = (box.left * width, box.top * height, box.right * width - 1, box.bottom * height - 1)
    ImageDraw.Draw(picture).rectangle(edges, outline="black", width=4)
    inner = (edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1)
    ImageDraw.Draw(picture).rectangle(inner, outline="white", width=2)


def with_crops(picture: Image.Image, box: Box, rng: np.random.Generator) -> Image.Image:
    """Return the photo with crops and their centres."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for colour in COLOURS[:CROPS]:
        crop = draw_crop(picture.height, picture.width, box, rng)
        bottom, right = crop.top + crop.height - 1, crop.left + crop.width - 1
        draw.rectangle((crop.left, crop.top, right, bottom), outline=colour, width=2)
        y, x = crop.top + crop.height / 2, crop.left + crop.width / 2
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="black")
    outline(picture, box)
    return picture


def stack(pictures: list[Image.Image], *, across: bool = False) -> Image.Image:
    """Join pictures side by side, or one above the other."""
    widths, heights = [p.width for p in pictures], [p.height for p in pictures]
    gaps = GAP * (len(pictures) - 1)
    size = (sum(widths) + gaps, max(heights)) if across else (max(widths), sum(heights) + gaps)
    sheet, place = Image.new("RGB", size, "white"), 0
    for picture in pictures:
        sheet.paste(picture, (place, 0) if across else (0, place))
        place += GAP + (picture.width if across else picture.height)
    return sheet


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: semantic_crops.py WEIGHTS [PHOTO...]")
    named = [HERE / "photos" / f"{name}.jpg" for name in CHOSEN]
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]] or named)
