"""Accuracy of streams at every quality, and of pixels, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cdvision.errors import UnsupportedTask
from cdvision.evaluation.accuracy import Scoring, TopScoring, measure_accuracy
from cdvision.evaluation.answer_cache import AnswerCache, CacheFolder, Key, files_digest
from cdvision.evaluation.bootstrap import RESAMPLES, Draws
from cdvision.evaluation.coco_ap import CocoScoring
from cdvision.evaluation.coco_labels import read_coco_labels
from cdvision.evaluation.labelled import LabelledPhoto, LabelledPhotos
from cdvision.evaluation.layers import LayerSender, with_layers
from cdvision.evaluation.pixel_networks import PixelNetworks, ask_pixels
from cdvision.model import Model
from cdvision.stream import inspect
from cdvision.tasks import WEAK_BOXES, find_task

Record = dict[str, Any]
Transmit = Callable[[bytes], bytes]


@dataclass(frozen=True)
class LabelledSet:
    """Photos, and how answers about them are scored.

    Attributes:
        photos: labelled with image ids, class indices, or rows of a table.
        annotations: a COCO json; short for ``CocoScoring`` of it.
        given_scoring: scores the answers; by default of ``annotations``, else top-1 and top-5.
        name: stands in the records.
        resamples: draws behind the 95 % intervals.
        draws: the drawn figures of every measurement so far, in order.
    """

    photos: Sequence[LabelledPhoto] | LabelledPhotos
    annotations: Path | None = None
    given_scoring: Scoring | None = None
    name: str = ""
    resamples: int = RESAMPLES
    draws: list[Draws] = field(default_factory=list, init=False, compare=False, repr=False)

    @cached_property
    def scoring(self) -> Scoring:
        """What scores the answers."""
        if self.given_scoring is not None:
            return self.given_scoring
        if self.annotations is not None:
            return CocoScoring(read_coco_labels(self.annotations))
        return TopScoring()

    @property
    def task(self) -> str:
        """The task of a model that the labels are for."""
        return self.scoring.task

    def measure(
        self,
        transmit: Transmit,
        ask: Callable[[bytes, bytes], Any],
        label: str,
        cache: AnswerCache | None = None,
    ) -> Record:
        """Send every photo and score the answers.

        ``transmit`` makes of a photo's file the bytes that are sent; ``ask`` makes of both the
        answer, boxes in the photo's pixels. ``label`` is shown beside the progress bar. Returns
        the record: task, photos, mean_bytes and figures, each with ``_low`` and ``_high``.
        """

        def answer(image: bytes) -> tuple[Any, int]:
            sent = transmit(image)
            return ask(sent, image), len(sent)

        drawn: Draws = {}
        figures = measure_accuracy(
            self.photos,
            self.scoring,
            answer,
            label=label,
            cache=cache,
            resamples=self.resamples,
            keep=drawn,
        )
        self.draws.append(drawn)
        return {"data": self.name, **figures} if self.name else figures


def sender_name(model: Model, data: LabelledSet, *, for_task: bool) -> str:
    """Name a model, and the task of its streams where they are for that task alone."""
    return f"{model.name} for {data.task}" if for_task else model.name


def stream_curve(
    model: Model,
    data: LabelledSet,
    qualities: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    size: int | None = None,
    for_task: bool = False,
    cache: CacheFolder | None = None,
) -> list[Record]:
    """Measure a model's streams, one record a quality, and for each number of layers.

    Streams are cut after so many ``layers`` (None leaves them whole), and the bytes are those of
    the cut streams; ``for_task`` leaves out what the labels' task does not need. ``size`` is the
    long side of the network input, the model's own choice where None. Where no answers are kept,
    records also have ``mean_payload_bytes``, without the streams' headers and checksums.

    Raises:
        UnsupportedTask: the model has no answer to what the labels ask.
        CdvisionError: a stream has fewer layers than were asked for.
    """
    if data.task not in model.card.tasks:
        raise UnsupportedTask(model.no_task_message(data.task))
    task = find_task(data.task)
    counts: Sequence[int | None] = [None] if layers is None else layers
    tasks, name = [data.task] if for_task else None, sender_name(model, data, for_task=for_task)
    records = []
    for quality in qualities:
        sender = LayerSender(partial(model.encode, quality=quality, size=size, tasks=tasks))
        key: Key = {
            "codec": f"cdvision {name}",
            "task": data.task,
            "quality": quality,
            "confidence": WEAK_BOXES["confidence"],
            "size": size,
            "engine": type(model.engine).__name__,
            "fingerprint": model.card.fingerprint,
            "files": files_digest(model.card.files),
        }
        for count in counts:
            form, payloads = data.scoring.format, list[int]()
            found = data.measure(
                partial(_sent, sender, count, payloads),
                lambda bits, _: model.open(bits).ask(task.name, **task.measured),
                with_layers(f"{name} {quality}", count),
                cache.open(_with_count(key, count), form) if cache is not None else None,
            )
            codec = with_layers(f"cdvision {name}", count)
            entry = _with_count({"codec": codec, "quality": quality, "size": size}, count)
            # Answers that were kept are not sent again.
            told = {} if cache is not None else {"mean_payload_bytes": float(np.mean(payloads))}
            records.append({**entry, **told, **found})
    return records


def _sent(sender: LayerSender, layers: int | None, payloads: list[int], image: bytes) -> bytes:
    """Return a photo's stream, and note its bytes without header and checksums."""
    sent = sender.send(image, layers=layers)
    payloads.append(sum(layer.bytes_present for layer in inspect(sent).layers))
    return sent


def _with_count(key: Key, layers: int | None) -> Key:
    """Add the number of layers; keys and records of whole streams stay as they always were."""
    return key if layers is None else {**key, "layers": layers}


def pixel_record(
    data: LabelledSet,
    reference: PixelNetworks,
    *,
    size: int | None = None,
    cache: CacheFolder | None = None,
) -> Record:
    """Measure the uncompressed networks on the photos as they are."""
    key: Key = {
        "codec": "none",
        "task": data.task,
        "size": size,
        "confidence": WEAK_BOXES["confidence"],
        "files": reference.digest(),
    }
    found = data.measure(
        lambda image: image,
        lambda image, _: ask_pixels(reference, data.task, image, size=size),
        "pixels",
        cache.open(key, data.scoring.format) if cache is not None else None,
    )
    return {"codec": "none", "quality": None, "size": size, **found}
