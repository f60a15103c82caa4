"""``cdvision bench analyze``: many streams through ``analyze``, beside a plain loop of ``detect``.

The loop and every setting of ``analyze`` answer for the same streams once a round, in an order that
rotates; ratios are taken within a round. Memory is that of this process while a repeated list of
streams passes through.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cdvision.analysis.workers import usable_cores
from cdvision.bench.timing import Action, Spread, paired_times
from cdvision.errors import CdvisionError
from cdvision.machine import machine, versions
from cdvision.model import Model

BAR = 1.6
LOOP = "loop of detect, one at a time"
# Streams after which memory has to stay: all sessions are open, all buffers have their size.
SETTLED = 1_000

Settings = Mapping[str, Any]
DEFAULTS: Settings = {}


@dataclass(frozen=True)
class AnalyzeTime:
    """One way through the streams: milliseconds a stream, and how many times the loop's pace."""

    way: str
    milliseconds: Spread
    speed_up: Spread


@dataclass(frozen=True)
class AnalyzeReport:
    """What a run has measured; see ``bench_analyze``."""

    model: str
    streams: int
    rounds: int
    cores: int
    load: tuple[float, float, float]
    times: tuple[AnalyzeTime, ...]
    memory: tuple[tuple[int, float], ...]
    """(streams passed, MiB resident), where memory was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts, with what it was measured on."""
        packages = versions("numpy", "onnxruntime")
        return {"machine": machine(), "versions": packages, **asdict(self)}

    def __str__(self) -> str:
        packages = ", ".join(f"{k} {v}" for k, v in versions("numpy", "onnxruntime").items())
        lines = [
            f"{machine()}; {packages}; load average {', '.join(f'{x:.1f}' for x in self.load)}",
            f"{self.model}; {self.streams} streams a round, {self.rounds} rounds, "
            f"{self.cores} usable cores",
            "",
            "| way | median ms a stream | 10 % to 90 % | times the loop | 10 % to 90 % | bar |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *map(_row, self.times),
        ]
        lines += [f"after {count:,} streams: {mib:,.0f} MiB" for count, mib in self.memory]
        return "\n".join(lines)


def bench_analyze(
    model: Model,
    streams: Sequence[bytes],
    *,
    count: int = 64,
    rounds: int = 7,
    settings: Sequence[Settings] = (DEFAULTS,),
    memory: int = 0,
) -> AnalyzeReport:
    """Time ``model.analyze`` beside a loop over ``model.detect``, and watch its memory.

    Every one of ``rounds`` takes ``count`` streams (they repeat as needed) once through the loop
    and once through ``analyze`` with each of the ``settings``, its ``workers`` and ``batch_size``.
    If ``memory`` is not 0, so many streams pass once, and resident memory is reported on the way.
    Raises CdvisionError where there are no streams, or one of them is bad.
    """
    if not streams:
        raise CdvisionError("bench analyze: expected at least one stream, found none")
    some = list(islice(cycle(streams), count))
    actions: dict[str, Action] = {LOOP: partial(_loop, model, some)}
    for options in settings:
        chosen = ", ".join(f"{name}={value}" for name, value in options.items())
        actions[f"analyze, {chosen or 'defaults'}"] = partial(_analyze, model, some, options)
    times = paired_times([actions], rounds, label="analyze")
    rows = [
        AnalyzeTime(way, Spread.of(values / count), Spread.of(times[LOOP] / values))
        for way, values in times.items()
    ]
    held = tuple(memory_on_the_way(model, streams, memory)) if memory else ()
    return AnalyzeReport(
        model.name, count, rounds, usable_cores(), os.getloadavg(), tuple(rows), held
    )


def memory_on_the_way(
    model: Model, streams: Sequence[bytes], count: int
) -> Iterator[tuple[int, float]]:
    """Pass ``count`` streams through; yield (streams passed, MiB resident) on the way.

    That is after 1,000 streams and at each quarter of the way beyond.
    """
    marks = {SETTLED, *(count * quarter // 4 for quarter in range(1, 5))}
    for number, result in enumerate(model.analyze(islice(cycle(streams), count)), start=1):
        if result.error is not None:
            raise result.error
        if number in marks and number >= min(SETTLED, count):
            yield number, resident_mib()


def resident_mib() -> float:
    """Return the MiB of memory that this process holds now; 0 where the system does not tell."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return 0.0
    # The second number is the resident set, counted in pages.
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _loop(model: Model, streams: Sequence[bytes]) -> None:
    for bits in streams:
        model.detect(bits)


def _analyze(model: Model, streams: Sequence[bytes], options: Settings) -> None:
    for result in model.analyze(iter(streams), **options):
        if result.error is not None:
            raise result.error


def _row(time: AnalyzeTime) -> str:
    took, speed = time.milliseconds, time.speed_up
    bar = f"{BAR}: {'met' if speed.median >= BAR else 'missed'}" if time.way != LOOP else ""
    return (
        f"| {time.way} | {took.median:.2f} | {took.low:.2f} to {took.high:.2f} "
        f"| {speed.median:.2f} | {speed.low:.2f} to {speed.high:.2f} | {bar} |"
    )
