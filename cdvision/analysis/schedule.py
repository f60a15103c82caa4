"""Which streams share a batch, how many batches are under way, and in which order results leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from cdvision.analysis.batch import Entry
from cdvision.analysis.result import AnalysisResult
from cdvision.photo import Size

Submit = Callable[[Sequence[Entry]], "Future[list[AnalysisResult]]"]

# Streams that wait for mates of their size, or results for their turn, at most: so many batches.
# Photos of mixed shapes fill their batches the better the more may wait.
HELD_BATCHES = 8


class Schedule:
    """Everything that has been read and has not left yet; its size is bounded.

    ::

        add ─▶ buckets by input size ─▶ batches under way ─▶ results ─▶ leave
               (a full one is submitted)  (at most ``most``)   (in order, or as they come)

    ``submit`` starts the work on a batch in another thread.
    """

    def __init__(self, submit: Submit, batch_size: int, most: int, *, ordered: bool) -> None:
        self._submit, self._batch_size, self._most = submit, batch_size, most
        self._ordered, self._next = ordered, 0
        self._limit = HELD_BATCHES * batch_size
        self._buckets: dict[Size, list[Entry]] = {}
        self._running: set[Future[list[AnalysisResult]]] = set()
        self._results: dict[int, AnalysisResult] = {}

    def add(self, entry: Entry) -> Iterator[AnalysisResult]:
        """Take one stream in, and let results leave until there is room for the next one."""
        self._take(entry)
        self._collect()
        # Waiting here is what holds a fast source back.
        while len(self._running) >= self._most:
            self._wait()
        yield from self._ready()
        # Bounded together: streams without mates, and results whose turn has not come.
        while sum(map(len, self._buckets.values())) + len(self._results) > self._limit:
            self._start_what_is_waited_for()
            self._wait()
            yield from self._ready()

    def finish(self) -> Iterator[AnalysisResult]:
        """Start what waits, and let all results leave."""
        # what is left waits for mates that will not come
        for size in list(self._buckets):
            self._start(size)
        yield from self._ready()
        while self._running:
            self._wait()
            yield from self._ready()

    def _take(self, entry: Entry) -> None:
        size = entry.input_size
        if size is None:  # already an error: it needs no batch
            self._results[entry.blank.index] = entry.blank
            return
        bucket = self._buckets.setdefault(size, [])
        bucket.append(entry)
        if len(bucket) == self._batch_size:
            self._start(size)

    def _ready(self) -> Iterator[AnalysisResult]:
        """Let results leave, as far as their order allows."""
        while self._results:
            index = self._next if self._ordered else next(iter(self._results))
            if index not in self._results:
                return
            self._next += 1
            yield self._results.pop(index)

    def _start_what_is_waited_for(self) -> None:
        """Start the bucket of the oldest stream, unless all wait for one under way."""
        size = min(self._buckets, key=lambda size: self._buckets[size][0].blank.index, default=None)
        if size is None:
            return
        oldest = self._buckets[size][0].blank.index
        # In order, only the oldest stream can free what is held: no other bucket would help.
        if oldest == self._next or not self._ordered:
            self._start(size)

    def _start(self, size: Size) -> None:
        self._running.add(self._submit(self._buckets.pop(size)))

    def _wait(self) -> None:
        wait(self._running, return_when=FIRST_COMPLETED)
        self._collect()

    def _collect(self) -> None:
        for future in [future for future in self._running if future.done()]:
            self._running.remove(future)
            self._results.update((result.index, result) for result in future.result())
