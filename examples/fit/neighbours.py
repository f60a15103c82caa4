"""Nearest-neighbour accuracy of a network's outputs, from streams and from pixels.

    python examples/fit/neighbours.py my-tap photos.csv photos.tar WEIGHTS
    python examples/fit/neighbours.py my-model photos.csv photos.tar WEIGHTS NAME

The first is for a tap, the second for a model that serves the network under some name.
Photos of the csv with source imagenette and split val; each one's class is voted by the 10 others
whose average stage-3 features are most alike. Both sides see the same network input.
"""

from __future__ import annotations

import csv
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from resnet50v2 import resnet50v2

import cdvision
from cdvision.photo import fit_photo, read_photo

NEIGHBOURS = 10


def labelled(table: Path, tar: Path) -> Iterator[tuple[bytes, int]]:
    """Yield the bytes and the class of every photo that counts."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    with tarfile.open(tar) as photos:
        for member in photos:
            row, content = rows.get(member.name), photos.extractfile(member)
            if row and content and (row["source"], row["split"]) == ("imagenette", "val"):
                yield content.read(), int(row["imagenet_class"])


def accuracy(vectors: list[np.ndarray], classes: list[int]) -> float:
    """Leave one out: the share of photos whose neighbours vote for their class."""
    x = np.stack(vectors)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    likeness, names = x @ x.T - 2 * np.eye(len(x)), np.array(classes)
    nearest = np.argsort(-likeness, axis=1)[:, :NEIGHBOURS]
    votes = [np.bincount(names[row]).argmax() for row in nearest]
    return float(np.mean(np.array(votes) == names))


def main(folder: str, table: str, tar: str, weights: str, name: str = "") -> None:
    """Print the accuracy from pixels, and from streams of every quality."""
    name, model = name or Path(folder).resolve().name, cdvision.load(folder)
    network = resnet50v2(weights).eval()
    qualities = range(1, model.card.qualities + 1)
    pixels: list[np.ndarray] = []
    streams: dict[int, list[np.ndarray]] = {quality: [] for quality in qualities}
    sizes: dict[int, list[int]] = {quality: [] for quality in qualities}
    classes = []
    for content, label in labelled(Path(table), Path(tar)):
        image = fit_photo(read_photo(content), model.card.input).pixels
        with torch.inference_mode():
            found = network(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        pixels.append(found[0].mean((1, 2)).numpy())
        classes.append(label)
        for quality in qualities:
            bits = model.encode(content, quality)
            answer = model.open(bits).dense(name)["output"]
            streams[quality].append(answer.mean((1, 2)))
            sizes[quality].append(len(bits))
    reference = accuracy(pixels, classes)
    print(f"{len(classes)} photos, from pixels: {reference:.3f}")
    for quality in qualities:
        found = accuracy(streams[quality], classes)
        print(
            f"quality {quality}: {np.mean(sizes[quality]):.0f} bytes, {found:.3f} "
            f"({found / reference:.1%} of pixels)"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
