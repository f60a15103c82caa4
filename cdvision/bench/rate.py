"""``cdvision bench rate``: our streams, pixels and picture codecs on the same labelled photos.

::

    photos ─┬─ cdvision, every quality ──────────── tap + tail ─┐
            ├─ as they are ─────────── uncompressed network ────┼─▶ records ─▶ report
            └─ rival, quality x scale ─ uncompressed network ───┘
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cdvision.bench.record_log import Key, Record, RecordLog
from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.evaluation.answer_cache import files_digest
from cdvision.evaluation.curve import LabelledSet, pixel_record, sender_name, stream_curve
from cdvision.evaluation.notices import notice
from cdvision.evaluation.package_without_codec import PackageWithoutCodec
from cdvision.evaluation.pixel_networks import PixelNetworks, ask_pixels, uncompressed_networks
from cdvision.evaluation.rival_curve import RivalPath, rival_paths, rival_record
from cdvision.evaluation.rivals import RIVALS, Rival, missing
from cdvision.machine import machine, versions
from cdvision.model import Model
from cdvision.tasks import find_task

LOG_FILE = "records.jsonl"
COUNTING = 2  # raised where bytes are counted in another way: older records are measured again

# A photo's file -> the bytes that are sent, and the answer to them.
Answer = Callable[[bytes], tuple[bytes, Any]]


@dataclass(frozen=True)
class PlannedRecord:
    """One record to be: what decides its figures, one photo's whole way, and all photos'."""

    key: Key
    answer: Answer
    record: Callable[[], Record]


@dataclass(frozen=True)
class RateBenchmark:
    """What is measured, on what.

    Raises:
        UnsupportedTask: the uncompressed networks do not answer what the labels ask.
    """

    model: Model
    data: LabelledSet
    labels: Path  # the file that holds the labels
    initial_weights: Path | None  # folder of the uncompressed networks; None: the package's own
    rivals: Sequence[Rival]  # picture codecs that work here
    qualities: Sequence[int] | None = None  # of the model; all where None
    jobs: int = 1  # threads that encode rivals' pictures
    left_out: Mapping[str, str] = field(default_factory=dict)  # other rivals by name, and why
    for_task: bool = False  # streams hold what the task needs, and nothing else

    def __post_init__(self) -> None:
        if not hasattr(PixelNetworks, self.data.task):
            raise UnsupportedTask(f"the uncompressed networks do not {self.data.task}")

    @property
    def codec(self) -> str:
        """Name of our streams in the records."""
        return f"cdvision {sender_name(self.model, self.data, for_task=self.for_task)}"

    def run(self, folder: Path) -> dict[str, Any]:
        """Measure what ``folder/records.jsonl`` does not hold yet; return the run's facts.

        Returns:
            What JSON can hold: ``ours`` (name of our codec), ``fingerprint`` (of the model),
            ``data``, ``machine``, ``versions``, ``codecs`` (what made the bytes, by name),
            ``left_out`` and ``records``.
        """
        log = RecordLog(folder / LOG_FILE)
        with tempfile.TemporaryDirectory() as graphs:
            reference: PixelNetworks = (
                PackageWithoutCodec(self.model)
                if self.initial_weights is None
                else uncompressed_networks(self.model.package, self.initial_weights, Path(graphs))
            )
            records = [self._measured(log, one) for one in self._measurements(reference)]
        return {
            "ours": self.codec,
            "fingerprint": self.model.card.fingerprint,
            "data": self.data.name,
            "machine": machine(),
            "versions": versions("cdvision", "numpy", "onnxruntime", "pillow"),
            "codecs": {rival.name: rival.describe() for rival in self.rivals},
            "left_out": dict(self.left_out),
            "records": records,
        }

    @cached_property
    def _digest(self) -> str:
        return data_digest(self.data, self.labels)

    def _measured(self, log: RecordLog, one: PlannedRecord) -> Record:
        """Return a record of the log, or measure it and keep it there.

        What the first photo costs and is answered is part of the key: another version of any
        codec, network or of our own code is seen by it. Graphs that were only written anew are not.
        """
        image = next(iter(self.data.photos)).data
        sent, answer = one.answer(image)
        plain = json.dumps(self.data.scoring.format.write(answer), sort_keys=True)
        probe = hashlib.sha256(sent + plain.encode()).hexdigest()
        key = {**one.key, "data": self._digest, "first photo": probe, "counting": COUNTING}
        found = log.find(key)
        if found is None:
            found = one.record()
            log.append(key, found)
        return found

    def _measurements(self, reference: PixelNetworks) -> Iterator[PlannedRecord]:
        yield self._pixels(reference)
        for quality in self.qualities or range(1, self.model.card.qualities + 1):
            yield self._streams(quality)
        for rival in self.rivals:
            for path in rival_paths(rival, reference):
                yield self._rival(path)

    def _streams(self, quality: int) -> PlannedRecord:
        card = self.model.card

        def answer(image: bytes) -> tuple[bytes, Any]:
            tasks = [self.data.task] if self.for_task else None
            sent = self.model.encode(image, quality, tasks=tasks)
            return sent, self.model.open(sent).ask(
                self.data.task, **find_task(self.data.task).measured
            )

        key: Key = {
            "codec": self.codec,
            "quality": quality,
            "fingerprint": card.fingerprint,
            "files": files_digest(card.files),
            "engine": type(self.model.engine).__name__,
        }

        def record() -> Record:
            return stream_curve(self.model, self.data, [quality], for_task=self.for_task)[0]

        return PlannedRecord(key, answer, record)

    def _pixels(self, reference: PixelNetworks) -> PlannedRecord:
        def answer(image: bytes) -> tuple[bytes, Any]:
            return image, ask_pixels(reference, self.data.task, image)

        key: Key = {"codec": "none", "networks": reference.digest()}
        return PlannedRecord(key, answer, partial(pixel_record, self.data, reference))

    def _rival(self, path: RivalPath) -> PlannedRecord:
        def answer(image: bytes) -> tuple[bytes, Any]:
            sent = path.send(image)
            return sent, path.ask(self.data.task, sent, image)

        key: Key = {
            "codec": path.rival.name,
            "quality": path.quality,
            "scale": path.scale,
            "codec version": path.rival.describe(),
            "networks": path.reference.digest(),
        }
        return PlannedRecord(key, answer, partial(rival_record, path, self.data, jobs=self.jobs))


def data_digest(data: LabelledSet, labels: Path) -> str:
    """SHA-256 over labels, photos, and how answers are scored."""
    scoring = (data.task, type(data.scoring).__name__, data.resamples)
    digest = hashlib.sha256(repr(scoring).encode())
    if labels.is_file():
        digest.update(labels.read_bytes())
    for photo in data.photos:
        content = hashlib.sha256(photo.data).hexdigest()
        digest.update(repr((photo.name, photo.label, content)).encode())
    return digest.hexdigest()


def chosen_rivals(names: Sequence[str]) -> tuple[list[Rival], dict[str, str]]:
    """Return the rivals of these names, or all that work here; and why the others do not.

    Raises:
        CdvisionError: a name is unknown, or a rival that was asked for does not work here.
    """
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise CdvisionError(f"rival: expected one of {', '.join(RIVALS)}, found {unknown[0]}")
    wanted = [RIVALS[name] for name in dict.fromkeys(names or RIVALS)]
    left_out = {rival.name: reason for rival in wanted if (reason := missing(rival)) is not None}
    if names and left_out:
        raise CdvisionError(next(iter(left_out.values())))
    for name, reason in left_out.items():
        notice(f"{RIVALS[name].title} is left out: {reason}")
    return [rival for rival in wanted if rival.name not in left_out], left_out
