"""One batch: streams of one input size are decoded, share each run of the engine, and answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cdvision.analysis.result import AnalysisResult, StreamItem
from cdvision.engines.onnx_engine import OnnxEngine
from cdvision.errors import CdvisionError
from cdvision.package.graph_names import cheapest_graph
from cdvision.tasks import answered_by

if TYPE_CHECKING:
    from cdvision.model import Model
    from cdvision.photo import Size
    from cdvision.stream_answers import Stream


@dataclass(frozen=True)
class Questions:
    """What is asked of every stream; each task is asked with those options that it takes."""

    tasks: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One stream on its way: what its result will say of it, and the stream or what is wrong."""

    blank: AnalysisResult
    stream: Stream | None = None

    @property
    def input_size(self) -> Size | None:
        """(width, height) of the network input: streams of one size can share a batch."""
        return None if self.stream is None else self.stream.input_size


def open_entry(model: Model, index: int, item: StreamItem) -> Entry:
    """Read the header of one item; a bad one is an entry with an error, never an exception."""
    key: Any
    content: Any
    # Whatever else it is, opening it says what was expected.
    key, content = item if isinstance(item, tuple) and len(item) == 2 else (None, item)
    blank = AnalysisResult(index, key=None if key is None else str(key))
    if isinstance(content, CdvisionError):
        return Entry(replace(blank, error=content))
    try:
        stream = model.open(content)
    except (CdvisionError, TypeError) as error:
        size = len(content) if isinstance(content, (bytes, bytearray, memoryview)) else 0
        told = error if isinstance(error, CdvisionError) else CdvisionError(str(error))
        return Entry(replace(blank, error=told, size=size))
    return Entry(replace(blank, image_size=stream.source_size, size=len(content)), stream)


def answer_batch(
    model: Model, entries: Sequence[Entry], questions: Questions
) -> list[AnalysisResult]:
    """Answer for streams of one input size, in their order; what fails yields its error."""
    failed: dict[int, CdvisionError] = {}
    tails = model.card.graphs_for(questions.tasks)
    # Streams are decoded one by one, as entropy coding gains nothing from a batch ...
    for entry in entries:
        _attempt(partial(_decode, tails), [entry], failed)
    # ... and share each run of the engine, which does.
    for tail, graph in tails.items():
        left = [entry for entry in entries if entry.blank.index not in failed]
        if left:
            _attempt(partial(_run_graph, model, tail, graph), left, failed)
    return [_answer(entry, failed.get(entry.blank.index), questions) for entry in entries]


def _attempt(
    action: Callable[[Sequence[Stream]], None],
    entries: Sequence[Entry],
    failed: dict[int, CdvisionError],
) -> None:
    """Call on all at once; where that fails, on each alone."""
    try:
        action([entry.stream for entry in entries if entry.stream is not None])
    except CdvisionError as error:
        if len(entries) == 1:
            failed[entries[0].blank.index] = error
            return
        # Whose fault it is shows one by one; the others have their answers.
        for entry in entries:
            _attempt(action, [entry], failed)


def _decode(tails: Iterable[str], streams: Sequence[Stream]) -> None:
    for stream in streams:
        for tail in tails:
            stream.latents_for(tail)


def _run_graph(model: Model, tail: str, graph: str, streams: Sequence[Stream]) -> None:
    """Run one tail's graph on all streams, on one core one by one, and hand each its share."""
    engine = model.engine
    # The maps of one photo fit a core's cache, those of 16 do not, and one core gains nothing
    # else from a batch (measured on two cores, one stream a run each: 7.0 ms a photo, not 8.0).
    alone = isinstance(engine, OnnxEngine) and engine.device == "cpu" and engine.threads == 1
    step = 1 if alone else len(streams)
    for start in range(0, len(streams), step):
        batch = streams[start : start + step]
        single = [stream.graph_inputs(tail) for stream in batch]
        # each stream's arrays are (1, ...): stacked, they are one batch of the network
        inputs = {name: np.concatenate([one[name] for one in single]) for name in single[0]}
        outputs = engine.run(*cheapest_graph(model.card, graph, inputs))
        for position, stream in enumerate(batch):
            own = {name: values[position] for name, values in outputs.items()}
            stream.keep_outputs(tail, graph, own)


def _answer(entry: Entry, error: CdvisionError | None, questions: Questions) -> AnalysisResult:
    """Ask every question; of tasks that share an answer, the fullest is asked."""
    if entry.stream is None or error is not None:
        return replace(entry.blank, error=error or entry.blank.error)
    try:
        answers = {
            task.answer: entry.stream.ask(task.name, **task.taken_from(questions.options))
            for task in answered_by(questions.tasks)
        }
    except CdvisionError as problem:
        return replace(entry.blank, error=problem)
    return replace(entry.blank, answers=answers)
