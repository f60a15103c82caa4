"""Many streams at once: batches of one input size share each run of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from cdvision.errors import CdvisionError

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.opened import Stream
    from cdvision.results import Classification, Detections


@dataclass(frozen=True)
class AnalysisResult:
    """Answers for one stream of an analysis.

    Attributes:
        index: position of the stream in the input.
        detections: boxes, where detection or segmentation was asked for.
        classification: classes, where classification was asked for.
        error: what was wrong with the stream; the other fields are then None.
    """

    index: int
    detections: Detections | None = None
    classification: Classification | None = None
    error: CdvisionError | None = None


@dataclass(frozen=True)
class _Item:
    index: int
    stream: Stream


def analyze_streams(
    model: Model,
    streams: Iterable[bytes],
    tasks: tuple[str, ...],
    batch_size: int,
    *,
    confidence: float = 0.3,
    top: int = 5,
) -> Iterator[AnalysisResult]:
    """Yield one result a stream, in order; see ``Model.analyze``."""
    if batch_size < 1:
        raise CdvisionError(f"batch_size: expected at least 1, found {batch_size}")
    numbered = iter(enumerate(streams))
    while chunk := list(islice(numbered, batch_size)):
        opened = [_open(model, index, bits) for index, bits in chunk]
        items = [item for item in opened if isinstance(item, _Item)]
        for group in _by_input_size(items):
            _run_batch(model, [item.stream for item in group], tasks)
        for entry in opened:
            if isinstance(entry, AnalysisResult):
                yield entry
            else:
                yield _answer(entry, tasks, confidence, top)


def _open(model: Model, index: int, bits: bytes) -> _Item | AnalysisResult:
    try:
        stream = model.open(bits)
        stream.latents()
    except (CdvisionError, TypeError) as error:
        if isinstance(error, TypeError):
            error = CdvisionError(str(error))
        return AnalysisResult(index, error=error)
    return _Item(index, stream)


def _by_input_size(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    groups: dict[tuple[int, int], list[_Item]] = {}
    for item in items:
        groups.setdefault(item.stream.input_size, []).append(item)
    yield from groups.values()


def _run_batch(model: Model, streams: Sequence[Stream], tasks: tuple[str, ...]) -> None:
    """Run each task's graph once for all streams and hand each its share."""
    for tail in dict.fromkeys(streams[0].tail_for(task) for task in tasks):
        single = [stream.graph_inputs(tail) for stream in streams]
        inputs = {name: np.concatenate([one[name] for one in single]) for name in single[0]}
        outputs = model.engine.run(f"answer.{tail}", inputs)
        for position, stream in enumerate(streams):
            share = {name: values[position] for name, values in outputs.items()}
            stream.keep_outputs(tail, share)


def _answer(item: _Item, tasks: tuple[str, ...], confidence: float, top: int) -> AnalysisResult:
    detections = None
    if "segment" in tasks:  # boxes come with it
        detections = item.stream.segment(confidence=confidence)
    elif "detect" in tasks:
        detections = item.stream.detect(confidence=confidence)
    classification = item.stream.classify(top=top) if "classify" in tasks else None
    return AnalysisResult(item.index, detections, classification)
