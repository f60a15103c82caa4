"""Measures every path of faces: bytes, attributes, distances of pictures, and time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cdvision.bench.rate import data_digest
from cdvision.bench.record_log import Record, RecordLog
from cdvision.bench.timing import Spread, paired_times
from cdvision.engines.onnx_engine import OnnxEngine
from cdvision.evaluation.answer_formats import ATTRIBUTES
from cdvision.evaluation.bootstrap import bootstrap
from cdvision.evaluation.curve import LabelledSet
from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.picture_distance import PictureJudge
from cdvision.models.faces.bench.paths import UNCOMPRESSED, FacePath, original
from cdvision.stream import truncate_stream

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.models.faces.bench.pixel_classifier import PixelClassifier

LOG_FILE = "records.jsonl"
TIMED_FACES, ROUNDS = 16, 200
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FaceBenchmark:
    """What is measured, on what."""

    data: LabelledSet  # faces labelled with rows of an attribute table
    labels: Path  # the csv
    paths: Sequence[FacePath]
    classifier: PixelClassifier
    judge: PictureJudge
    side: int  # of a face in pixels

    def run(self, folder: Path) -> list[Record]:
        """Measure what ``folder/records.jsonl`` does not hold yet; return the records."""
        log, count = RecordLog(folder / LOG_FILE), len(self.paths)
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
        """Return a record of the log, or measure it and keep it there."""
        key = {
            "codec": path.codec,
            **path.setting,
            **path.version,
            "side": self.side,
            "data": self._digest,
            "metrics": self.judge.metrics.digest if self.judge.metrics is not None else "pixels",
            "classifier": self.classifier.digest,
            "thresholds": hashlib.sha256(self.classifier.thresholds.tobytes()).hexdigest(),
            # Another version of any codec, network or of our own code is seen by its answer.
            "first face": self._probe(path),
        }
        found = log.find(key)
        if found is None:
            found = self._record(path, label)
            log.append(key, found)
        return found

    def _probe(self, path: FacePath) -> str:
        sent = path.send(next(iter(self.data.photos)).data)
        said = "" if path.attributes is None else ATTRIBUTES.write(path.attributes(sent))
        answer = json.dumps(said, sort_keys=True).encode()
        return hashlib.sha256(sent + answer + path.picture(sent).tobytes()).hexdigest()

    def _record(self, path: FacePath, label: str) -> Record:
        """Send all faces on one path, and score what receivers have of them."""
        sent, drawn = [], []
        for photo in tqdm(self.data.photos, desc=label, unit="face", disable=None):
            sent.append(path.send(photo.data))
            drawn.append(path.picture(sent[-1]))
        sizes = {
            "mean_bytes": np.array([len(bits) for bits in sent], np.float64),
            "mean_payload_bytes": np.array([path.payload(bits) for bits in sent], np.float64),
        }
        pictures, rows = np.stack(drawn), [photo.label for photo in self.data.photos]
        scoring, distances = self.data.scoring, {}
        told = on_pictures = scoring.scorer(rows, self.classifier.answers(pictures))
        if path.attributes is not None:
            # Through their file format: probabilities count as rounded as a user would have them.
            written = (ATTRIBUTES.write(path.attributes(bits)) for bits in sent)
            told = scoring.scorer(rows, [ATTRIBUTES.read(answer) for answer in written])
        if path.codec != UNCOMPRESSED:
            distances = self.judge.judge(pictures, self._originals)

        def figures(weights: Floats) -> dict[str, Floats]:
            found = _means(sizes, weights) | told(weights)
            if path.attributes is not None:  # the means over attributes, without those of each
                means = on_pictures(weights).items()
                found |= {f"picture_{name}": value for name, value in means if "." not in name}
            return found | _means(distances, weights)

        draws = self.data.resamples
        facts = {"codec": path.codec, **path.setting, "photos": len(rows), "resamples": draws}
        return {**facts, **bootstrap(figures, len(rows), resamples=draws)}


def _means(values: Mapping[str, Floats], weights: Floats) -> dict[str, Floats]:
    total = weights.sum(axis=1)  # photos of a draw, those drawn twice counted twice
    return {name: weights @ value / total for name, value in values.items()}


def attribute_times(
    model: Model, photos: Iterable[LabelledPhoto], layers: Sequence[int]
) -> list[dict[str, Any]]:
    """Time ``model.attributes(bits)`` with one thread, on the first faces, at the default quality.

    Streams are cut after each number of ``layers`` in turn.

    Returns:
        For each of them: ``layers``, ``mean_bytes``, and milliseconds as ``median``, ``low`` and
        ``high`` (the 10th and 90th percentile).
    """
    receiver = copy(model)
    if isinstance(model.engine, OnnxEngine):
        receiver.engine = model.engine.single_threaded()
    whole = [receiver.encode(photo.data) for photo in islice(iter(photos), TIMED_FACES)]
    # One encoding, cut: all numbers of layers are timed on the same faces.
    cut = {count: [truncate_stream(bits, count) for bits in whole] for count in layers}
    work = [
        {str(count): partial(receiver.attributes, cut[count][face]) for count in layers}
        for face in range(len(whole))
    ]
    times = paired_times(work, ROUNDS, label="bytes to attributes")
    found = []
    for count in layers:
        spread, size = Spread.of(times[str(count)]), np.mean([len(bits) for bits in cut[count]])
        milliseconds = {"median": spread.median, "low": spread.low, "high": spread.high}
        found.append({"layers": count, "mean_bytes": float(size), **milliseconds})
    return found
