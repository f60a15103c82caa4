"""Many streams at once: order, batches, back-pressure, clean ends, a result for every stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cdvision
from cdvision.analysis import Analyzer
from cdvision.analysis.batch import Entry
from cdvision.analysis.result import AnalysisResult
from cdvision.analysis.schedule import HELD_BATCHES, Schedule
from cdvision.analysis.workers import choose_workers, model_for_workers
from cdvision.bench.analysis import LOOP, bench_analyze
from cdvision.engines import Arrays
from cdvision.errors import BitstreamError, CdvisionError, EngineError
from cdvision.tasks import TASKS, Task, TaskOption

SIZES = [(64, 96), (96, 64), (64, 64), (96, 96)]


@pytest.fixture(scope="module")
def streams(model: cdvision.Model, photos: list[Path]) -> list[bytes]:
    """Twelve small streams of four shapes, shuffled."""
    rng = np.random.default_rng(5)
    shapes = [SIZES[k % len(SIZES)] for k in range(12)]
    rng.shuffle(shapes)
    pictures = [rng.integers(0, 255, (*shape, 3)).astype(np.uint8) for shape in shapes]
    return [model.encode(picture, 1 + k % 8, size=96) for k, picture in enumerate(pictures)]


def analysis_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("cdvision-analyze")]


@pytest.mark.parametrize(("workers", "size"), [(1, 1), (2, 3), (3, 5), (2, 16)])
@pytest.mark.parametrize("ordered", [True, False])
def test_every_stream_has_its_own_answer(
    model: cdvision.Model, streams: list[bytes], workers: int, size: int, ordered: bool
) -> None:
    analyzer = Analyzer(
        model, ["classify"], batch_size=size, workers=workers, ordered=ordered, top=3
    )
    items = [(f"photo-{k}", bits) for k, bits in enumerate(streams)]
    results = list(analyzer(iter(items)))
    if ordered:
        assert [result.index for result in results] == list(range(len(streams)))
    results.sort(key=lambda result: result.index)
    for number, (result, bits) in enumerate(zip(results, streams, strict=True)):
        assert (result.index, result.key) == (number, f"photo-{number}")
        assert result.size == len(bits)
        assert result.image_size == model.open(bits).source_size
        expected = model.classify(bits, top=3)
        assert result.classification is not None
        np.testing.assert_allclose(
            result.classification.probability, expected.probability, atol=1e-5
        )
    assert analysis_threads() == []


def test_errors_of_sources_headers_and_layers_become_records(
    model: cdvision.Model, streams: list[bytes]
) -> None:
    damaged = bytearray(streams[1])
    damaged[-9] ^= 1
    items: list[Any] = [
        ("good", streams[0]),
        ("damaged", bytes(damaged)),
        ("unread", CdvisionError("disk on fire")),
        (7, None),
        streams[2],
    ]
    results = list(model.analyze(items, ["classify"], 2))
    assert [result.name for result in results] == ["good", "damaged", "unread", "7", "4"]
    assert [type(r.error) for r in results[1:4]] == [BitstreamError, CdvisionError, CdvisionError]
    assert str(results[2].error) == "disk on fire"
    assert results[1].size == len(damaged)
    assert all(r.classification is not None for r in (results[0], results[4]))


class PickyEngine:
    """Fails on any batch in which a stream of one quality is."""

    def __init__(self, engine: Any, quality: int) -> None:
        self._engine, self._quality, self.runs = engine, quality, 0

    def run(self, graph: str, inputs: Arrays) -> dict[str, Any]:
        self.runs += 1
        if (inputs["quality"] == self._quality - 1).any():
            raise EngineError(f"quality {self._quality} is too much")
        outputs: dict[str, Any] = self._engine.run(graph, inputs)
        return outputs


def test_what_the_engine_refuses_does_not_take_its_batch_with_it(streams: list[bytes]) -> None:
    model = cdvision.load("small", threads=1)
    same = [model.encode(np.zeros((64, 64, 3), np.uint8), quality) for quality in (1, 2, 3, 4)]
    engine = PickyEngine(model.engine, 3)
    model.engine = engine
    results = list(model.analyze(same, ["classify"], 4))
    assert [result.error is None for result in results] == [True, True, False, True]
    assert "quality 3 is too much" in str(results[2].error)
    assert engine.runs == 1 + 4


@pytest.mark.parametrize("ordered", [True, False])
def test_a_consumer_that_stops_leaves_no_thread_and_reads_no_further(
    model: cdvision.Model, streams: list[bytes], ordered: bool
) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield streams[0]

    results: Any = model.analyze(endless(), ["classify"], 2, workers=2, ordered=ordered)
    for _ in range(5):
        next(results)
    seen = taken
    # 5 results came of 3 batches; 2 workers and one batch waiting are 3 more, and one being made.
    assert seen <= 2 * (3 + 3 + 1)
    results.close()
    assert analysis_threads() == []
    assert taken == seen


def test_an_exception_of_the_source_passes_and_leaves_no_thread(
    model: cdvision.Model, streams: list[bytes]
) -> None:
    def breaks() -> Iterator[bytes]:
        yield from streams[:5]
        raise RuntimeError("the camera fell into the sea")

    with pytest.raises(RuntimeError, match="into the sea"):
        list(model.analyze(breaks(), ["classify"], 2, workers=2))
    assert analysis_threads() == []


def test_a_rare_shape_does_not_wait_for_ever(model: cdvision.Model, streams: list[bytes]) -> None:
    by_size = {model.open(bits).input_size: bits for bits in streams}
    rare, common = by_size[(64, 96)], by_size[(96, 64)]
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield rare
        while True:
            taken += 1
            yield common

    results: Any = model.analyze(endless(), ["classify"], 2, workers=2)
    assert next(results).image_size == model.open(rare).source_size
    assert taken <= 2 * (HELD_BATCHES + 3)
    results.close()


class Shape:
    """Stands where a stream does: all that a schedule looks at is its size."""

    def __init__(self, size: int) -> None:
        self.input_size = (size, size)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_schedule_holds_a_bounded_number_whatever_the_shapes(ordered: bool) -> None:
    """Without a model: batches take random times in three threads."""
    rng, pauses = np.random.default_rng(1), np.random.default_rng(2)
    left: list[int] = []
    most = 0

    def answer(entries: Sequence[Entry], pause: float) -> list[AnalysisResult]:
        time.sleep(pause)
        return [entry.blank for entry in entries]

    with ThreadPoolExecutor(3) as pool:

        def submit(entries: Sequence[Entry]) -> Future[list[AnalysisResult]]:
            return pool.submit(answer, entries, pauses.exponential(0.0002))

        schedule = Schedule(submit, 4, 4, ordered=ordered)
        for index in range(600):
            stream: Any = Shape(int(rng.integers(40)))
            left += [result.index for result in schedule.add(Entry(AnalysisResult(index), stream))]
            most = max(most, index + 1 - len(left))
        left += [result.index for result in schedule.finish()]
    assert sorted(left) == list(range(600))
    assert (left == sorted(left)) == ordered
    assert most <= 4 * (HELD_BATCHES + 4)


def test_workers_are_chosen_by_cores_threads_and_input(monkeypatch: pytest.MonkeyPatch) -> None:
    import cdvision.analysis.workers as workers

    endless: Any = iter(())
    for cores, threads, expected in ((4, None, 4), (4, 2, 2), (2, 4, 1), (64, None, 8)):
        monkeypatch.setattr(workers, "usable_cores", lambda cores=cores: cores)
        model = cdvision.load("small", threads=threads)
        assert choose_workers(model, endless, 16) == expected
        assert choose_workers(model, [b""] * 16, 16) == 1
        assert choose_workers(model, [b""] * 17, 16) == expected


def test_batches_side_by_side_share_an_engine_of_one_thread_a_run() -> None:
    model = cdvision.load("small")
    assert model_for_workers(model, 1) is model
    narrow = model_for_workers(model, 2)
    assert narrow.engine.threads == 1  # type: ignore[attr-defined]
    assert model_for_workers(model, 3).engine is narrow.engine
    chosen = cdvision.load("small", threads=3)
    assert model_for_workers(chosen, 2) is chosen


def test_numbers_out_of_range_are_refused_at_once(model: cdvision.Model) -> None:
    for name in ("batch_size", "workers"):
        with pytest.raises(CdvisionError, match=f"{name}: expected at least 1, found 0"):
            model.analyze([], **{name: 0})


def test_each_asked_task_checks_its_own_options(
    model: cdvision.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Task("other", "", "", "", (TaskOption("top", 1, "Not classify's.", 0, 2),))
    monkeypatch.setitem(TASKS, "other", other)
    assert list(model.analyze([], ["classify"], top=5)) == []
    assert list(model.analyze([], ["classify"], confidence=0.5)) == []  # of a task not asked
    with pytest.raises(CdvisionError, match="top: expected at least 1, found 0"):
        model.analyze([], ["classify"], top=0)
    with pytest.raises(CdvisionError, match="expected options top, found 'tops'"):
        model.analyze([], ["classify"], tops=1)


def test_the_benchmark_times_each_way_and_memory(
    model: cdvision.Model, streams: list[bytes]
) -> None:
    report = bench_analyze(
        model, streams[:2], count=2, rounds=2, settings=[{"workers": 2, "batch_size": 1}], memory=4
    )
    assert [time.way for time in report.times] == [LOOP, "analyze, workers=2, batch_size=1"]
    assert report.times[0].speed_up.median == 1
    assert [count for count, _ in report.memory] == [4]
    assert "load average" in str(report)
    assert report.to_dict()["memory"][0][1] > 10
