"""Dynamic batching: streams that arrive within a few milliseconds share a run of the networks.

::

    answer() ─┐
    answer() ─┼▶ queue ─ wait for the window ─ group by question ─ thread: Model.analyze
    answer() ─┘                                                        │
       ▲────────────────────────── future of each stream ──────────────┘

While one batch runs, the next one gathers: the busier the service, the larger its batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from cdvision.analysis import AnalysisResult
from cdvision.analysis.workers import usable_cores
from cdvision.model import Model
from cdvision.serving.metrics import Metrics


@dataclass(frozen=True)
class Question:
    """What is asked of a stream; streams with equal questions can share a batch.

    Options are sorted pairs of name and value, so that questions can be compared.
    """

    model: Model
    task: str
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Reply:
    """The answer for one stream, with the seconds that it waited and that its batch ran."""

    result: AnalysisResult
    waited: float
    ran: float


@dataclass(frozen=True)
class WaitingStream:
    """A stream in the queue, and the future of whoever asked."""

    question: Question
    bits: bytes
    pixels: int
    arrived: float
    future: asyncio.Future[Reply]


class Batcher:
    """Gathers streams and runs them in one worker thread.

    At most ``max_batch`` share a run; the first of them waits ``window`` seconds for others.
    """

    def __init__(self, metrics: Metrics, *, max_batch: int, window: float) -> None:
        self._metrics, self._max_batch, self._window = metrics, max_batch, window
        self._queue: asyncio.Queue[WaitingStream] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cdvision-answers")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer, on the running event loop."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; called when no request is at work any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def answer(self, question: Question, bits: bytes, pixels: int) -> Reply:
        """Answer one stream of so many pixels of network input: they bound a batch."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        await self._queue.put(WaitingStream(question, bits, pixels, perf_counter(), future))
        return await future

    async def _work(self) -> None:
        while True:
            jobs = [await self._queue.get()]
            # The window begins when a stream arrives: what waited behind a run goes at once.
            await asyncio.sleep(max(0.0, jobs[0].arrived + self._window - perf_counter()))
            while len(jobs) < self._max_batch and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            try:
                for batch in _batches(jobs, self._max_batch):
                    await self._run(batch)
            except Exception as error:  # a bug of ours: these hear of it, the next are answered
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(error)

    async def _run(self, jobs: Sequence[WaitingStream]) -> None:
        question, begin = jobs[0].question, perf_counter()
        streams = [job.bits for job in jobs]
        outcomes = await asyncio.get_running_loop().run_in_executor(
            self._thread, _answer_batch, question, streams
        )
        ran = perf_counter() - begin
        self._metrics.batch.labels(question.task).observe(len(jobs))
        self._metrics.batch_seconds.labels(question.task).observe(ran)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.future.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(Reply(outcome, begin - job.arrived, ran))


def _batches(jobs: Sequence[WaitingStream], max_batch: int) -> Iterator[list[WaitingStream]]:
    """Group jobs by question, and split groups of inputs so large that memory would grow."""
    groups: dict[Question, list[WaitingStream]] = {}
    for job in jobs:
        if not job.future.done():
            groups.setdefault(job.question, []).append(job)
    for question, group in groups.items():
        # Memory grows with pixels: as many as a full batch of the model's usual size has.
        room = max_batch * question.model.card.input.size**2
        batch: list[WaitingStream] = []
        for job in group:
            if batch and sum(other.pixels for other in batch) + job.pixels > room:
                yield batch
                batch = []
            batch.append(job)
        yield batch


def _answer_batch(question: Question, streams: Sequence[bytes]) -> list[AnalysisResult | Exception]:
    """Answer a batch; where that fails as a whole, each alone, so that one cannot hurt others."""
    try:
        # Shared out to the cores: small runs side by side beat one large run on all of them.
        batch_size = -(-len(streams) // usable_cores())  # rounded up
        options = dict(question.options)
        return list(question.model.analyze(streams, (question.task,), batch_size, **options))
    except Exception as error:  # of the engine, for example: whose fault it is shows one by one
        if len(streams) == 1:
            return [error]
        return [outcome for bits in streams for outcome in _answer_batch(question, [bits])]
