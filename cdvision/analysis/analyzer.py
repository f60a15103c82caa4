"""Many streams at once: batches side by side in threads, results in order or as they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cdvision.analysis.batch import Entry, Questions, answer_batch, open_entry
from cdvision.analysis.result import AnalysisResult, StreamItems
from cdvision.analysis.schedule import Schedule
from cdvision.analysis.workers import choose_workers, model_for_workers
from cdvision.errors import CdvisionError, UnsupportedTask
from cdvision.numbers import checked_count
from cdvision.tasks import find_task
from cdvision.tasks import tasks as all_tasks
from cdvision.texts import several

if TYPE_CHECKING:
    from cdvision.model import Model

BATCH_SIZE = 16


class Analyzer:
    """Asks the same questions of every stream that it is given; ``Model.analyze`` makes one.

    ::

        source ─ headers ─ buckets ─▶ worker: entropy decoding ─ engine ─ post-processing ─▶ results
        (the caller's thread)         worker: the same, of another batch

    Whoever takes the results drives it: a slow consumer stops everything.

    >>> import cdvision, numpy as np
    >>> model = cdvision.load("small")
    >>> bits = model.encode(np.zeros((96, 128, 3), np.uint8), quality=1)
    >>> analyzer = Analyzer(model, ["classify"], batch_size=2)
    >>> [(r.name, r.error is None) for r in analyzer([("a", bits), ("b", b"?"), ("c", bits)])]
    [('a', True), ('b', False), ('c', True)]

    Args:
        model: a loaded model.
        tasks: any of the card's tasks but ``reconstruct``, one or several.
        batch_size: streams of one input size that the engine takes at once.
        workers: batches that run at once; see ``choose_workers`` where None.
        ordered: False lets results leave as they come; their ``index`` and ``key`` say whose.
        options: of the tasks, such as ``confidence`` and ``top``.

    Raises:
        UnsupportedTask: the model has no tail for a task.
        CdvisionError: a number is out of range.
    """

    def __init__(
        self,
        model: Model,
        tasks: str | Sequence[str] = ("detect",),
        *,
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
        ordered: bool = True,
        **options: Any,
    ) -> None:
        tasks = several(tasks)
        unknown = [task for task in tasks if model.card.tail_for(task) is None]
        if unknown:
            raise UnsupportedTask(model.no_task_message(unknown[0]))
        pictures = [task for task in tasks if not find_task(task).in_tables]
        if pictures:
            raise UnsupportedTask(f"an analysis gives answers; pictures come from {pictures[0]!r}")
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None:
                checked_count(name, value)
        check_options(tasks, options)
        self.model, self.batch_size, self.workers = model, batch_size, workers
        self.ordered, self.questions = ordered, Questions(tasks, options)

    def __call__(self, streams: StreamItems) -> Iterator[AnalysisResult]:
        """Yield one result for each stream.

        Args:
            streams: bytes, or (key, bytes) pairs; an error in place of the bytes passes through.
        """
        workers = self.workers or choose_workers(self.model, streams, self.batch_size)
        model = model_for_workers(self.model, workers)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="cdvision-analyze")

        def submit(entries: Sequence[Entry]) -> Future[list[AnalysisResult]]:
            return pool.submit(answer_batch, model, entries, self.questions)

        # Entropy decoding of one batch overlaps with the networks of another: both release
        # Python's lock. One batch more than workers: none waits while the caller looks at results.
        schedule = Schedule(submit, self.batch_size, workers + 1, ordered=self.ordered)
        try:
            # The source is read here, only as far as the workers need: a million streams take no
            # more memory than a thousand.
            for index, item in enumerate(streams):
                yield from schedule.add(open_entry(model, index, item))
            yield from schedule.finish()
        finally:
            # When the iterator is closed, batches that have not started are dropped, those under
            # way end, and no thread stays.
            pool.shutdown(wait=True, cancel_futures=True)


def check_options(tasks: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise CdvisionError for an option that no task has, or that an asked task refuses."""
    asked = [find_task(task) for task in tasks]
    # Options of tasks that were not asked are passed over: one set of them serves any question.
    known = {option.name for task in all_tasks().values() for option in task.options}
    for name in options:
        if name not in known:
            taken = [option.name for task in asked for option in task.options]
            raise CdvisionError(f"expected options {', '.join(taken) or 'none'}, found {name!r}")
    for task in asked:
        task.checked(task.taken_from(options))
