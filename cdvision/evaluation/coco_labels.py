"""Labels in COCO's json format: boxes and masks of objects, for COCO's own and VOC's protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cdvision.errors import CdvisionError
from cdvision.evaluation.coco_entries import completed, id_text, numbered
from cdvision.evaluation.notices import listed, notice

PARTS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id"),
    "categories": ("id", "name"),
}


@dataclass(frozen=True)
class CocoLabels:
    """What a COCO json says.

    Attributes:
        path: where it was read, for messages.
        images: entries with ``id`` and ``file_name``, in the order of the file.
        annotations: entries with ``image_id``, ``category_id``, ``bbox`` (left, top, width,
            height), ``area``, ``iscrowd``, ``ignore`` and ids from 1; often ``segmentation``.
        categories: category id by name.
    """

    path: Path
    images: Sequence[Mapping[str, Any]]
    annotations: Sequence[Mapping[str, Any]]
    categories: Mapping[str, int]

    def known_to(self, class_names: Sequence[str | None]) -> CocoLabels:
        """Leave out the categories that a model has no class for, and say which.

        Raises:
            CdvisionError: the model knows none of them.
        """
        unknown = [name for name in self.categories if name not in set(class_names)]
        if len(unknown) == len(self.categories):
            raise CdvisionError(
                f"{self.path}: the model has no class of these names: {listed(unknown)}"
            )
        if not unknown:
            return self
        notice(f"{self.path}: not measured, since the model has no such class: {listed(unknown)}")
        known = {name: number for name, number in self.categories.items() if name not in unknown}
        numbers = set(known.values())
        kept = [entry for entry in self.annotations if entry["category_id"] in numbers]
        return replace(self, categories=known, annotations=kept)

    def with_masks(self) -> CocoLabels:
        """Keep the images whose objects all have a mask, and say how many are left out.

        Raises:
            CdvisionError: there is no mask at all, or an image does not tell its size.
        """
        if not any("segmentation" in entry for entry in self.annotations):
            raise CdvisionError(f"{self.path}: expected masks (segmentation), found boxes only")
        for image in self.images:
            if not (image.get("width") and image.get("height")):
                told = f"{self.path}: masks need width and height of {image['file_name']}"
                raise CdvisionError(f"{told}, found none: write them into images")
        bare = {e["image_id"] for e in self.annotations if "segmentation" not in e}
        if not bare:
            return self
        notice(f"{self.path}: left out for want of masks: {len(bare)} of {len(self.images)} images")
        return replace(
            self,
            images=[entry for entry in self.images if entry["id"] not in bare],
            annotations=[entry for entry in self.annotations if entry["image_id"] not in bare],
        )


def read_coco_labels(path: Path) -> CocoLabels:
    """Read a COCO json; see ``coco_entries`` for what labelling tools may write otherwise.

    Categories of one name are one class. Objects of no image or category are left out, and told.

    Raises:
        CdvisionError: it is no such json; the message says what is missing, and where.
    """
    parts = _read_parts(path)
    for part, fields in PARTS.items():
        for number, entry in enumerate(parts[part]):
            found = entry if isinstance(entry, dict) else {}
            if missing := [field for field in fields if field not in found]:
                raise CdvisionError(f"{path}: expected {missing[0]!r} in {part}[{number}]")
    images = numbered(parts["images"], "file_name", f"{path}: images")
    numbers = numbered(parts["categories"], "name", f"{path}: categories")
    categories: dict[str, int] = {}
    for entry in parts["categories"]:
        own = id_text(entry["id"])
        # The first of a name counts for all of that name.
        numbers[own] = categories.setdefault(str(entry["name"]), numbers[own])
    objects = [
        completed(entry, number, images, numbers, str(path))
        for number, entry in enumerate(parts["annotations"])
    ]
    kept = [entry for entry in objects if entry is not None]
    if len(kept) < len(objects):
        count = len(objects) - len(kept)
        notice(f"{path}: {count} objects left out: of no image or category of this file")
    pictures = [{**entry, "id": images[id_text(entry["id"])]} for entry in parts["images"]]
    return CocoLabels(path, pictures, kept, categories)


def _read_parts(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CdvisionError(f"{path}: not a json that can be read ({error})") from error
    found = list(content) if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) for part in PARTS
    ):
        raise CdvisionError(f"{path}: expected the lists {', '.join(PARTS)}, found {found}")
    return {part: content[part] for part in PARTS}
