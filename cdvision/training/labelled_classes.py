"""Photos with one class each, from a csv, as training batches for a classifier."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cdvision.errors import CdvisionError
from cdvision.training.photo_bank import CropPlan, PhotoBank, read_named_photos


@dataclass(frozen=True)
class ClassTable:
    """Class of each file, made contiguous, and the name of each class."""

    labels: Mapping[str, int]
    classes: tuple[str, ...]


def read_class_table(table: Path, *, column: str = "imagenet_class") -> ClassTable:
    """Read a csv with columns ``file``, the class column and (optionally) ``split``.

    Rows without a class, or whose split is not ``train``, are left out. Classes become 0, 1, … in
    sorted order, numbers by value.
    """
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file" not in rows[0] or column not in rows[0]:
        found = ", ".join(rows[0]) if rows else "no row"
        raise CdvisionError(f"{table}: expected columns file and {column}, found {found}")
    named = {
        row["file"]: row[column]
        for row in rows
        if row[column] and row.get("split", "train") == "train"
    }
    classes = sorted(set(named.values()), key=lambda c: (int(c) if c.isdigit() else 0, c))
    number = {name: n for n, name in enumerate(classes)}
    return ClassTable({file: number[name] for file, name in named.items()}, tuple(classes))


class ClassBank:
    """Draws random crops of photos with their class, every class equally often."""

    def __init__(self, photos: Sequence[Tensor], labels: Sequence[int], side: int) -> None:
        if side % 64:
            raise CdvisionError(f"network inputs: expected a multiple of 64, found {side}")
        self.crops = PhotoBank(photos, CropPlan(sides=(side,), least=0.6, share=1.0))
        self.by_class = [np.flatnonzero(np.array(labels) == c) for c in sorted(set(labels))]
        self.labels, self.side = np.array(labels), side

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return crops (size, 3, S, S) float32 0..255 and labels (size,) int64."""
        groups = rng.integers(len(self.by_class), size=size)
        chosen = [int(rng.choice(self.by_class[group])) for group in groups]
        return self.crops.crops(chosen, self.side, rng), torch.from_numpy(self.labels[chosen])


def read_class_bank(
    table_path: Path, sources: Sequence[Path], *, side: int, device: torch.device, column: str
) -> tuple[ClassBank, tuple[str, ...]]:
    """Decode the photos that a table names; return them and the names of their classes."""
    table = read_class_table(table_path, column=column)
    photos, labels = [], []
    for name, photo in read_named_photos(sources, table.labels, of=table_path):
        photos.append(photo.to(device))
        labels.append(table.labels[name])
    return ClassBank(photos, labels, side), table.classes
