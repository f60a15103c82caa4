"""Accuracy of streams at every quality, of pixels, and of rival codecs, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cdvision.evaluation.accuracy import (
    EVALUATION_CONFIDENCE,
    classification_accuracy,
    detection_accuracy,
)
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.reference import PixelPath
from cdvision.evaluation.rivals import RIVALS, shrink
from cdvision.model import Model
from cdvision.photo import read_photo
from cdvision.results import Detections

Record = dict[str, Any]
Transmit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class LabelledSet:
    """Photos with image ids and a COCO json, or with class indices and none."""

    photos: Sequence[LabelledPhoto]
    annotations: Path | None = None

    def measure(
        self,
        transmit: Transmit,
        detect: Callable[[bytes, bytes], Detections],
        classify: Callable[[bytes], Any],
        label: str,
    ) -> Record:
        """Send every photo and score the answers.

        Args:
            transmit: bytes of a photo's file -> the bytes that are sent.
            detect: sent bytes and the photo's file -> detections in the photo's pixels.
            classify: sent bytes -> classification.
            label: shown beside the progress bar.
        """
        if self.annotations is None:
            top = classification_accuracy(self.photos, _sent(transmit, classify), label=label)
            return {"task": "classify", **top.to_dict()}

        def detect_sent(image: bytes) -> tuple[Detections, int]:
            sent = transmit(image)
            return detect(sent, image), len(sent)

        ap = detection_accuracy(self.photos, self.annotations, detect_sent, label=label)
        return {"task": "detect", **ap.to_dict()}


def stream_curve(model: Model, data: LabelledSet, qualities: Sequence[int]) -> list[Record]:
    """Measure a model's streams, one record a quality."""
    records = []
    for quality in qualities:
        found = data.measure(
            lambda image, quality=quality: model.encode(image, quality),  # type: ignore[misc]
            lambda bits, _: model.detect(bits, confidence=EVALUATION_CONFIDENCE),
            lambda bits: model.classify(bits, top=5),
            f"{model.name} {quality}",
        )
        records.append({"codec": f"cdvision {model.name}", "quality": quality, **found})
    return records


def pixel_record(data: LabelledSet, reference: PixelPath) -> Record:
    """Measure the uncompressed networks on the photos as they are."""
    found = data.measure(
        lambda image: image,
        lambda image, _: reference.detect(image, confidence=EVALUATION_CONFIDENCE),
        reference.classify,
        "pixels",
    )
    return {"codec": "none", "quality": None, **found}


def rival_curve(name: str, data: LabelledSet, reference: PixelPath) -> list[Record]:
    """Measure a picture codec in front of the uncompressed networks, one record a quality.

    Args:
        name: a key of ``RIVALS``.
        data: the photos; they are shrunk to the network's input before they are coded.
        reference: the networks.
    """
    rival, size = RIVALS[name], reference.package.card.input.size
    rival.register()
    records = []
    for quality in rival.qualities:
        found = data.measure(
            lambda image, quality=quality: rival.encode(  # type: ignore[misc]
                shrink(read_photo(image), size), quality
            ),
            lambda coded, image: _detect_shrunk(reference, coded, image),
            reference.classify,
            f"{name} {quality}",
        )
        records.append({"codec": name, "quality": quality, **found})
    return records


def format_records(records: Sequence[Record]) -> str:
    """Markdown table of accuracy records."""
    lines = ["| codec | quality | bytes | accuracy | | photos |", "|---|---|---|---|---|---|"]
    for record in records:
        first, second = ("ap", "ap50") if record["task"] == "detect" else ("top1", "top5")
        lines.append(
            f"| {record['codec']} | {record['quality'] or ''} | {record['mean_bytes']:,.0f} "
            f"| {first} {record[first]:.3f} | {second} {record[second]:.3f} | {record['photos']} |"
        )
    return "\n".join(lines)


def _sent(transmit: Transmit, answer: Callable[[bytes], Any]) -> Callable[[bytes], tuple[Any, int]]:
    def answer_sent(image: bytes) -> tuple[Any, int]:
        sent = transmit(image)
        return answer(sent), len(sent)

    return answer_sent


def _detect_shrunk(reference: PixelPath, coded: bytes, image: bytes) -> Detections:
    """Detect in a shrunk picture and scale the boxes to the photo that it was made from."""
    found = reference.detect(coded, confidence=EVALUATION_CONFIDENCE)
    size = read_photo(image).size
    scale = np.array(size, np.float32) / np.array(found.image_size, np.float32)
    return replace(found, xyxy=found.xyxy * np.tile(scale, 2), image_size=size)
