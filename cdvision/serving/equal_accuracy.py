"""Bytes that picture codecs need for as much accuracy as a stream has, on one photo.

``equal_accuracy.json`` holds, for models by their fingerprint, what `cdvision bench rate` measured:
the accuracy of each quality, and of each codec the settings that no other beats, as [quality, scale
of the picture, accuracy of the uncompressed network behind it], rising.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from math import exp, log
from typing import Any

from cdvision.evaluation.rival_curve import sent_picture
from cdvision.evaluation.rivals import RIVALS, missing
from cdvision.model import Model
from cdvision.photo import read_photo

Point = tuple[int, float, float]  # quality and scale of a codec, and the accuracy behind it


def bytes_at_equal_accuracy(photo: bytes, model: Model, quality: int) -> dict[str, Any]:
    """Return what each picture codec needs of a photo for the accuracy of a stream's quality.

    Between two measured settings the bytes of this photo are interpolated, on a logarithmic scale.
    ``accuracy`` is None, and no codec is told, where nothing was measured for the model; codecs
    that are not installed, or never reach the accuracy, are left out.
    """
    picture = read_photo(photo)
    facts: dict[str, Any] = {"width": picture.width, "height": picture.height}
    measured = _measured(model.card.fingerprint)
    if measured is None:
        return {**facts, "accuracy": None, "codecs": []}
    target = measured["streams"][quality - 1]

    def size_at(name: str) -> Callable[[Point], int]:
        def size(point: Point) -> int:
            sent = sent_picture(picture, point[1], model.card.input)
            return len(RIVALS[name].encode(sent, point[0]))

        return size

    codecs = []
    for name, points in measured["codecs"].items():
        found = interpolated(points, target, size_at(name)) if _installed(name) else None
        if found is not None:
            codecs.append({"name": name, "title": RIVALS[name].title, "bytes": found})
    accuracy = {"figure": measured["figure"], "value": target, "data": measured["data"]}
    return {**facts, "accuracy": accuracy, "codecs": codecs}


def interpolated(
    points: Sequence[Point], target: float, size: Callable[[Point], int]
) -> int | None:
    """Return the bytes at an accuracy between measured ones; None where it is never reached.

    >>> interpolated([(1, 1.0, 0.2), (2, 1.0, 0.4)], 0.3, lambda point: 100 * point[0] ** 2)
    200
    """
    place = bisect_left([accuracy for *_, accuracy in points], target)
    if place == len(points):
        return None
    above = points[place]
    if place == 0 or above[2] == target:
        return size(above)
    below = points[place - 1]
    share = (target - below[2]) / (above[2] - below[2])
    return round(exp((1 - share) * log(size(below)) + share * log(size(above))))


@cache
def _measured(fingerprint: str) -> dict[str, Any] | None:
    text = resources.files("cdvision.serving").joinpath("equal_accuracy.json").read_text("utf-8")
    found = (one for one in json.loads(text) if fingerprint.startswith(one["fingerprint"]))
    return next(found, None)


@cache
def _installed(name: str) -> bool:
    return missing(RIVALS[name]) is None
