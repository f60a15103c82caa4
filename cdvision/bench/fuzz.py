"""The fuzzer behind ``cdvision bench fuzz``: spoiled streams give a result or a BitstreamError.

::

    seeds ─ mutate ─▶ bytes ─ decode ─┬─ result ───────────┐
                                      ├─ BitstreamError ───┼─▶ FuzzReport
                                      └─ anything else, ───┘   (and the bytes in a folder)
                                         over 1 s, over 256 MB

The bytes on trial stand in ``in_flight.cdv`` while they are decoded, so that they survive a crash
of the whole interpreter, or a hang that somebody interrupts.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from tqdm import tqdm

from cdvision.bench.cold_start import MEBIBYTE, peak_memory
from cdvision.bench.mutations import UNLIMITED, mutate
from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import read_stream

SLOW_SECONDS = 1.0
MAX_ALLOCATION = 256 * 2**20
TRACED_EVERY = 25
MAX_FAILURES = 100

Decode = Callable[[bytes], object]


@dataclass(frozen=True)
class FuzzFailure:
    """One item that broke the promise: which, how, and the file that shows it again."""

    index: int
    mutation: str
    reason: str
    path: str


@dataclass
class FuzzReport:
    """What a campaign found; ``print`` it for a summary.

    ``outcomes`` counts ``"result"``, ``"BitstreamError"`` and the names of whatever else was
    raised. ``peak_item_bytes`` is the largest peak of Python and numpy allocations over the traced
    items (one in 25), ``rss_growth_bytes`` how far the process's peak resident memory rose.
    """

    count: int
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    mutations: Counter[str] = field(default_factory=Counter)
    failures: list[FuzzFailure] = field(default_factory=list)
    slowest_seconds: float = 0.0
    slowest_index: int = -1
    peak_item_bytes: int = 0
    rss_growth_bytes: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every item kept the promise."""
        return not self.failures and self.rss_growth_bytes <= MAX_ALLOCATION

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain Python values."""
        counters = {"outcomes": dict(self.outcomes), "mutations": dict(self.mutations)}
        return {**asdict(self), **counters, "ok": self.ok}

    def __str__(self) -> str:
        """Return a summary for people."""
        outcomes = ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        lines = [
            f"{self.count:,} streams in {self.seconds:.1f} s (seed {self.seed}): "
            + ("every one kept the promise" if self.ok else f"FAILED, {len(self.failures)} kept"),
            f"  outcomes           {outcomes}",
            f"  slowest item       {self.slowest_seconds * 1e3:.1f} ms (item {self.slowest_index})",
            f"  peak of one item   {self.peak_item_bytes / 2**20:.1f} MiB (1 in {TRACED_EVERY})",
            f"  peak memory rose   {self.rss_growth_bytes / 2**20:.1f} MiB over all",
        ]
        lines += [f"  item {x.index} ({x.mutation}): {x.reason}: {x.path}" for x in self.failures]
        return "\n".join(lines)


def fuzz_streams(
    seeds: Sequence[bytes],
    decode: Decode,
    count: int,
    seed: int = 0,
    *,
    folder: str | Path = "fuzz-failures",
    refusals: tuple[type[Exception], ...] = (BitstreamError,),
) -> FuzzReport:
    """Decode ``count`` spoiled variants of ``seeds`` and report what came of it.

    Many small streams with different contents search best; the same seeds and ``seed`` make the
    same variants. ``decode`` may refuse them by ``refusals``. The bytes of failures go to
    ``folder``, which stays only if there are any; after 100 the campaign ends.

    Raises:
        CdvisionError: there are no seeds, or one of them is cut or does not decode as it is.
    """
    _decode_seeds(seeds, decode)
    report = FuzzReport(count, seed)
    trial = _Trial(decode, refusals, report, Path(folder))
    started, rss_before = perf_counter(), _peak_rss()
    with trial, tqdm(range(count), desc="fuzz", unit="stream", disable=None) as indices:
        for index in indices:
            trial.judge(index, *mutate(seeds, seed, index))
            if len(report.failures) == MAX_FAILURES:
                break
    report.count = report.outcomes.total()
    report.seconds = perf_counter() - started
    report.rss_growth_bytes = _peak_rss() - rss_before
    return report


class _Trial:
    """Decodes one item after the other, and writes the outcomes into a report."""

    def __init__(
        self,
        decode: Decode,
        refusals: tuple[type[Exception], ...],
        report: FuzzReport,
        folder: Path,
    ) -> None:
        self.decode, self.refusals, self.report, self.folder = decode, refusals, report, folder
        self.in_flight: IO[bytes]

    def __enter__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.in_flight = (self.folder / "in_flight.cdv").open("wb")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.in_flight.close()
        if kind is None:
            (self.folder / "in_flight.cdv").unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def judge(self, index: int, mutation: str, data: bytes) -> None:
        self._keep_in_flight(data)
        rss_before = _peak_rss()
        outcome, reason, seconds = self._attempt(data)
        if seconds > SLOW_SECONDS:  # once more: a machine that was busy elsewhere is not a hang
            seconds = min(seconds, self._attempt(data)[2])
        # A rise of the peak also shows memory outside Python; tracing each item would be too slow.
        allocated = _peak_rss() - rss_before
        if index % TRACED_EVERY == 0:
            traced = self._traced_peak(data)
            self.report.peak_item_bytes = max(self.report.peak_item_bytes, traced)
            allocated = max(allocated, traced)
        reason = reason or _excess(seconds, allocated)
        self._record(index, mutation, outcome, seconds)
        if reason:
            path = self.folder / f"seed{self.report.seed}-item{index}-{mutation}.cdv"
            path.write_bytes(data)
            self.report.failures.append(FuzzFailure(index, mutation, reason, str(path)))

    def _attempt(self, data: bytes) -> tuple[str, str, float]:
        started = perf_counter()
        outcome, reason = "result", ""
        try:
            self.decode(data)
        except self.refusals as refusal:
            outcome = type(refusal).__name__
        except Exception as error:
            outcome, reason = type(error).__name__, f"{type(error).__name__}: {error}"
        return outcome, reason, perf_counter() - started

    def _traced_peak(self, data: bytes) -> int:
        tracemalloc.start()
        try:
            self._attempt(data)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def _record(self, index: int, mutation: str, outcome: str, seconds: float) -> None:
        self.report.outcomes[outcome] += 1
        self.report.mutations[mutation] += 1
        if seconds > self.report.slowest_seconds:
            self.report.slowest_seconds, self.report.slowest_index = seconds, index

    def _keep_in_flight(self, data: bytes) -> None:
        self.in_flight.seek(0)
        self.in_flight.truncate()
        self.in_flight.write(data)
        self.in_flight.flush()


def _decode_seeds(seeds: Sequence[bytes], decode: Decode) -> None:
    """Check the seeds, and let a compiling decoder compile before anything is timed."""
    if not seeds:
        raise CdvisionError("fuzzing needs at least one valid stream to start from")
    for index, stream in enumerate(seeds):
        try:
            decode(stream)
        except CdvisionError as error:
            raise CdvisionError(f"seed stream {index} does not decode as it is: {error}") from error
        if not read_stream(stream, limits=UNLIMITED).complete:
            raise CdvisionError(f"seed stream {index} is cut: fuzzing starts from complete streams")


def _excess(seconds: float, allocated: int) -> str:
    if seconds > SLOW_SECONDS:
        return f"took {seconds:.2f} s"
    if allocated > MAX_ALLOCATION:
        return f"allocated {allocated / 2**20:.0f} MiB"
    return ""


def _peak_rss() -> int:
    """Return the peak resident memory of this process in bytes, or 0 where nobody tells."""
    return int((peak_memory() or 0) * MEBIBYTE)
