"""Labelled photos: COCO-format boxes, and classes from a csv; read from a folder or a tar."""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdvision.errors import CdvisionError


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo: the bytes of its file, and the key of its labels (image id or class index)."""

    name: str
    data: bytes
    label: int


def coco_photos(annotations: Path, images: Path) -> Iterator[LabelledPhoto]:
    """Yield the photos of a COCO json in its order; ``images`` is a folder or a tar."""
    with open(annotations, encoding="utf-8") as file:
        entries = json.load(file)["images"]
    yield from _read(images, [(e["file_name"], e["id"]) for e in entries])


def classified_photos(
    table: Path, images: Path, *, where: dict[str, str], label: str = "imagenet_class"
) -> Iterator[LabelledPhoto]:
    """Yield the photos of a csv with a ``file`` column whose other columns match ``where``."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if all(r[k] == v for k, v in where.items())]
    yield from _read(images, [(r["file"], int(r[label])) for r in rows])


def _read(images: Path, wanted: list[tuple[str, int]]) -> Iterator[LabelledPhoto]:
    if not wanted:
        raise CdvisionError("no labelled photo matches")
    if images.is_dir():
        for name, label in wanted:
            yield LabelledPhoto(name, (images / name).read_bytes(), label)
        return
    with tarfile.open(images) as tar:
        for name, label in wanted:
            content = tar.extractfile(name)
            if content is None:
                raise CdvisionError(f"{images}: no photo {name}")
            yield LabelledPhoto(name, content.read(), label)
