"""The entries of a COCO json as labelling tools write them, completed or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from cdvision.errors import CdvisionError

Entry = Mapping[str, Any]


def numbered(entries: Sequence[Entry], name: str, place: str) -> dict[str, int]:
    """Return a whole number for the id of each image or category, by the id as text.

    Ids may be whole numbers, also as text; where one is neither, all are numbered from 1.

    Args:
        entries: with ``id`` and ``name``.
        name: the field that an entry cannot do without.
        place: the file and its list, for messages.

    Raises:
        CdvisionError: an id or a name is missing, or an id comes twice.
    """
    for number, entry in enumerate(entries):
        for field in ("id", name):
            if entry.get(field) in (None, ""):
                raise CdvisionError(f"{place}[{number}]: expected {field!r}, found none")
    ids = [id_text(entry["id"]) for entry in entries]
    if len(set(ids)) != len(ids):
        raise CdvisionError(f"{place}: expected different ids, found one twice")
    whole = all(re.fullmatch(r"-?\d+", one) for one in ids)
    return {one: int(one) if whole else number for number, one in enumerate(ids, 1)}


def id_text(value: Any) -> str:
    """Return an id as one text, whether a tool wrote 7, 7.0 or "7".

    >>> id_text(7), id_text(7.0), id_text(" 7"), id_text("a1")
    ('7', '7', '7', 'a1')
    """
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def completed(
    entry: Entry, number: int, images: Mapping[str, int], categories: Mapping[str, int], place: str
) -> dict[str, Any] | None:
    """Return an object as pycocotools needs it, its id from 1; None where it belongs to no image.

    Fields that are null count as missing. A box that is missing is that of the outline, an area
    that of the box.

    Raises:
        CdvisionError: a field cannot be read; the message names the entry.
    """
    where = f"{place}: annotations[{number}]"
    given = {name: value for name, value in entry.items() if value is not None}
    for field in ("image_id", "category_id"):
        if field not in given:
            raise CdvisionError(f"{where}: expected {field!r}, found none")
    image, category = id_text(given["image_id"]), id_text(given["category_id"])
    if image not in images or category not in categories:
        return None
    outline = _outline(given.pop("segmentation", None))
    box = _box(given.get("bbox"), outline, where)
    crowd = _flag(given.get("iscrowd", 0), f"{where}.iscrowd")
    area = given.get("area")
    return {
        **given,
        **({} if outline is None else {"segmentation": outline}),
        "image_id": images[image],
        "category_id": categories[category],
        "bbox": box,
        "area": box[2] * box[3] if area is None else _number(area, f"{where}.area"),
        "iscrowd": crowd,
        "ignore": _flag(given.get("ignore", crowd), f"{where}.ignore"),
        "id": number + 1,  # pycocotools takes 0 for no match
    }


def _outline(value: Any) -> Any:
    """Return polygons or run lengths; None where there is none, written as [] or [[]]."""
    if isinstance(value, list):
        return [polygon for polygon in value if _is_polygon(polygon)] or None
    runs = isinstance(value, dict) and value.get("counts") and len(value.get("size") or ()) == 2
    return value if runs else None


def _is_polygon(value: Any) -> bool:
    """Tell whether a value is x, y of three points or more."""
    numbers = isinstance(value, list) and all(isinstance(one, (int, float)) for one in value)
    return numbers and len(value) >= 6 and len(value) % 2 == 0


def _box(value: Any, outline: Any, where: str) -> list[float]:
    if not value and isinstance(outline, list):
        return _around(outline)
    if not isinstance(value, list) or len(value) != 4:
        raise CdvisionError(f"{where}.bbox: expected left, top, width, height, found {value!r}")
    box = [_number(side, f"{where}.bbox") for side in value]
    if box[2] < 0 or box[3] < 0:
        raise CdvisionError(f"{where}.bbox: expected a width and a height, found {value!r}")
    return box


def _around(polygons: Sequence[Sequence[float]]) -> list[float]:
    """Return the box around polygons, each x, y, x, y ..."""
    across = [one for polygon in polygons for one in polygon[::2]]
    down = [one for polygon in polygons for one in polygon[1::2]]
    return [min(across), min(down), max(across) - min(across), max(down) - min(down)]


def _flag(value: Any, where: str) -> int:
    number = _number(value, where)
    if number not in (0, 1):
        raise CdvisionError(f"{where}: expected 0 or 1, found {value!r}")
    return int(number)


def _number(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number):
        raise CdvisionError(f"{where}: expected a number, found {value!r}")
    return number
