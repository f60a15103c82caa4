"""Measures every path of faces: bytes, attributes, and how far the pictures are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cdvision.bench.rate import data_digest
from cdvision.bench.record_log import Record, RecordLog
from cdvision.evaluation.answer_formats import ATTRIBUTES, AttributeVerdict
from cdvision.evaluation.bootstrap import Scorer, bootstrap
from cdvision.evaluation.curve import LabelledSet
from cdvision.evaluation.picture_distance import PictureJudge
from cdvision.models.faces.bench.paths import UNCOMPRESSED, FacePath, original

LOG_FILE = "records.jsonl"
Verdicts = Mapping[str, AttributeVerdict]
Floats = NDArray[np.float64]


class Classifier(Protocol):
    """What tells the attributes of pictures."""

    @property
    def digest(self) -> str:
        """Hash over its weights."""

    @property
    def thresholds(self) -> Floats:
        """From which attributes count as present."""

    def answers(self, pictures: NDArray[np.uint8]) -> Sequence[Verdicts]:
        """Return the attributes of (N, R, R, 3) uint8."""


@dataclass(frozen=True)
class ReceivedFaces:
    """What receivers had of N faces.

    Attributes:
        sizes: (N,) bytes that were sent.
        payload: (N,) of them without containers.
        pictures: (N, R, R, 3) uint8.
        answers: attributes of each, where the path tells them without a picture.
    """

    sizes: Floats
    payload: Floats
    pictures: NDArray[np.uint8]
    answers: list[Verdicts] | None


@dataclass(frozen=True)
class FaceBenchmark:
    """What is measured, on what.

    Attributes:
        data: faces labelled with rows of an attribute table.
        labels: the csv.
        paths: ways of a face to a receiver.
        classifier: looks at the pictures.
        judge: compares the pictures with the originals.
        side: of a face in pixels.
    """

    data: LabelledSet
    labels: Path
    paths: Sequence[FacePath]
    classifier: Classifier
    judge: PictureJudge
    side: int

    def run(self, folder: Path) -> list[Record]:
        """Measure what ``folder/records.jsonl`` does not hold yet; return the records."""
        log = RecordLog(folder / LOG_FILE)
        count = len(self.paths)
        return [
            self._measured(log, path, f"[{number}/{count}] {path}")
            for number, path in enumerate(self.paths, 1)
        ]

    @cached_property
    def _digest(self) -> str:
        return data_digest(self.data, self.labels)

    @cached_property
    def _originals(self) -> NDArray[np.uint8]:
        return np.stack([original(photo.data, self.side) for photo in self.data.photos])

    def _measured(self, log: RecordLog, path: FacePath, label: str) -> Record:
        """Return a record of the log, or measure it and keep it there.

        The first face's bytes, answer and picture are part of the key: another version of any
        codec, network or of our own code is seen by it.
        """
        key = {
            **path.key,
            "side": self.side,
            "data": self._digest,
            "metrics": self.judge.metrics.digest if self.judge.metrics is not None else "pixels",
            "classifier": self.classifier.digest,
            "thresholds": hashlib.sha256(self.classifier.thresholds.tobytes()).hexdigest(),
            "first face": self._probe(path),
        }
        found = log.find(key)
        if found is None:
            found = self.record(path, label)
            log.append(key, found)
        return found

    def _probe(self, path: FacePath) -> str:
        sent = path.send(next(iter(self.data.photos)).data)
        said = "" if path.attributes is None else ATTRIBUTES.write(path.attributes(sent))
        answer = json.dumps(said, sort_keys=True).encode()
        return hashlib.sha256(sent + answer + path.picture(sent).tobytes()).hexdigest()

    def record(self, path: FacePath, label: str = "") -> Record:
        """Measure all faces on one path."""
        received = self._receive(path, label)
        rows = [photo.label for photo in self.data.photos]
        seen = self.classifier.answers(received.pictures)
        scorers = [_mean_of({"bytes": received.sizes, "payload_bytes": received.payload}, "mean_")]
        scorers.append(self.data.scoring.scorer(rows, received.answers or seen))
        if received.answers is not None:
            scorers.append(_on_pictures(self.data.scoring.scorer(rows, seen)))
        if path.codec != UNCOMPRESSED:
            scorers.append(_mean_of(self.judge.judge(received.pictures, self._originals)))
        draws = self.data.resamples
        figures = bootstrap(_together(scorers), len(rows), resamples=draws)
        facts = {"codec": path.codec, **path.setting, "photos": len(rows), "resamples": draws}
        return {**facts, **figures}

    def _receive(self, path: FacePath, label: str) -> ReceivedFaces:
        sent = []
        pictures = []
        for photo in tqdm(self.data.photos, desc=label, unit="face", disable=None):
            sent.append(path.send(photo.data))
            pictures.append(path.picture(sent[-1]))
        answers = None
        if path.attributes is not None:
            answers = [ATTRIBUTES.read(ATTRIBUTES.write(path.attributes(bits))) for bits in sent]
        return ReceivedFaces(
            np.array([len(bits) for bits in sent], np.float64),
            np.array([path.payload(bits) for bits in sent], np.float64),
            np.stack(pictures),
            answers,
        )


def _mean_of(values: Mapping[str, Floats], prefix: str = "") -> Scorer:
    def figures(weights: Floats) -> dict[str, Floats]:
        total = weights.sum(axis=1)  # photos of a draw, those drawn twice counted twice
        return {f"{prefix}{name}": weights @ value / total for name, value in values.items()}

    return figures


def _on_pictures(scorer: Callable[[Floats], dict[str, Floats]]) -> Scorer:
    """Name the means over attributes for what they are; those of each are left out."""

    def figures(weights: Floats) -> dict[str, Floats]:
        found = scorer(weights)
        return {f"picture_{name}": value for name, value in found.items() if "." not in name}

    return figures


def _together(scorers: Sequence[Scorer]) -> Scorer:
    def figures(weights: Floats) -> dict[str, Any]:
        return {name: value for scorer in scorers for name, value in scorer(weights).items()}

    return figures
