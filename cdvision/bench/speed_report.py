"""The report of ``cdvision bench speed`` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from cdvision.bench.speed import PartTime, Ratio, SpeedReport
from cdvision.bench.timing import Spread
from cdvision.machine import machine, versions

HOLDS = "Python, all libraries, all graphs (ours and the uncompressed network's), all photos"


def format_speed(report: SpeedReport) -> str:
    """Lay a report out: times, then ratios with their bars, then memory and cold starts."""
    packages = versions("numpy", "numba", "onnxruntime", "pillow", "pillow-heif")
    lines = [
        f"{machine()}; {', '.join(f'{name} {number}' for name, number in packages.items())}",
        f"{report.model}, quality {report.quality}; {report.photos} photos, {report.rounds} "
        "rounds; every round runs every part once, in an order that rotates",
    ]
    for batch in dict.fromkeys(time.batch for time in report.times):
        lines += ["", *_times([t for t in report.times if t.batch == batch], batch)]
    lines += ["", *_ratios(report.ratios), "", *_cold(report)]
    return "\n".join(lines)


def _times(times: Sequence[PartTime], batch: int) -> list[str]:
    heading = "one photo at a time" if batch == 1 else f"{batch} photos at a time, for each photo"
    return [
        f"| {heading} | bytes | median ms | 10 % to 90 % |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {t.part} | {f'{t.size:,.0f}' if t.size else ''} | {_spread(t.milliseconds)} |"
            for t in times
        ),
    ]


def _ratios(ratios: Sequence[Ratio]) -> list[str]:
    return [
        "| ratio, round by round | batch | median | 10 % to 90 % | bar |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {r.part} / ({r.rival}) | {r.batch} | {_spread(r.value, 3)} | {_bar(r)} |"
            for r in ratios
        ),
    ]


def _bar(ratio: Ratio) -> str:
    if ratio.bar is None:
        return ""
    return f"{ratio.bar:.2f}: {'met' if ratio.value.median <= ratio.bar else 'missed'}"


def _cold(report: SpeedReport) -> list[str]:
    lines = [
        "| in a process of its own, files cached | median s | 10 % to 90 % | peak MiB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for start in report.cold:
        peak = "" if start.peak_mib is None else f"{start.peak_mib:,.0f}"
        lines.append(f"| {start.command} | {_spread(start.seconds)} | {peak} |")
    if report.peak_mib is not None:
        lines += [
            "",
            f"Peak resident memory of this process: {report.peak_mib:,.0f} MiB ({HOLDS}).",
        ]
    return lines


def _spread(spread: Spread, digits: int = 2) -> str:
    return f"{spread.median:.{digits}f} | {spread.low:.{digits}f} to {spread.high:.{digits}f}"
