"""``cdvision bench speed``: from photo to stream to boxes, beside an uncompressed network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cdvision.bench import speed_parts as parts
from cdvision.bench.cold_start import ColdStart, cold_starts, peak_memory
from cdvision.bench.speed_parts import Part, make_parts
from cdvision.bench.timing import Spread, Times, paired_times, pairwise_ratio
from cdvision.errors import CdvisionError
from cdvision.image_files import PHOTO_SUFFIXES
from cdvision.machine import machine, versions
from cdvision.model import Model

HOLDS = "Python, all libraries, all graphs (ours and the uncompressed network's), all photos"
ROUNDS, BATCH, COLD_RUNS = 60, 16, 5

# Numerator, denominator, and the most that the project allows at batch 1.
RATIOS: tuple[tuple[str, str, float | None], ...] = (
    (parts.DETECT, parts.end_to_end(parts.JPEG), 0.8),
    *((parts.DETECT, parts.end_to_end(r), None) for r in (parts.WEBP, parts.AVIF, parts.HEVC)),
    (parts.NETWORKS, parts.UNCOMPRESSED, None),
    (parts.ENTROPY, parts.DETECT, 0.05),
    (parts.SEGMENT, parts.DETECT, 1.3),
    (parts.ENCODE, parts.UNCOMPRESSED, 1.5),  # both from pixels, as a camera has them
    (parts.TRANSCODE, parts.end_to_end(parts.JPEG), None),
    (parts.ENCODER, parts.UNCOMPRESSED, None),
)


@dataclass(frozen=True)
class PartTime:
    """Milliseconds of one part for one photo, over all rounds; bytes are a mean."""

    part: str
    batch: int
    milliseconds: Spread
    size: float


@dataclass(frozen=True)
class Ratio:
    """Time of one part over another's, round by round; ``bar`` is the most that is allowed."""

    part: str
    rival: str
    batch: int
    value: Spread
    bar: float | None = None


@dataclass(frozen=True)
class SpeedReport:
    """What a run has measured; see ``bench_speed``."""

    model: str
    quality: int
    photos: int
    rounds: int
    times: tuple[PartTime, ...]
    ratios: tuple[Ratio, ...]
    cold: tuple[ColdStart, ...]
    peak_mib: float | None
    """Peak resident memory of this process: Python, libraries, all graphs, all photos."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings, lists and dicts, with what it was measured on."""
        packages = versions("numpy", "onnxruntime", "pillow", "pillow-heif", "torch")
        return {"machine": machine(), "versions": packages, **asdict(self)}


def bench_speed(
    model: Model,
    photos: Sequence[bytes],
    *,
    quality: int | None = None,
    rounds: int = ROUNDS,
    batch: int = BATCH,
    cold_runs: int = COLD_RUNS,
) -> SpeedReport:
    """Time the whole chain, its parts and its rivals in paired rounds, in one process.

    Round r takes photo r, modulo; a batch holds photos of the most common network-input size, and
    a quarter as many rounds. ``cold_runs`` commands start, each in a process of its own.

    Raises:
        CdvisionError: no photos, or the command line fails.
        UnsupportedTask: the model has no detector.
        ModelError: it lacks the uncompressed network.
    """
    if not photos:
        raise CdvisionError("bench speed: expected at least one photo, found none")
    single = [make_parts(model, [photo], quality) for photo in photos]
    batched = [make_parts(model, _batch(model, photos, quality, batch), quality)]
    few = max(2, rounds // 4)
    times = {
        1: paired_times(_actions(single), rounds, label="one photo"),
        batch: paired_times(_actions(batched), few, label=f"{batch} photos"),
    }
    stream = model.encode(photos[0], quality)
    return SpeedReport(
        model=model.name,
        quality=model.open(stream).header.quality,
        photos=len(photos),
        rounds=rounds,
        times=(*_part_times(single, times[1], 1), *_part_times(batched, times[batch], batch)),
        ratios=tuple(ratio for size in times for ratio in _ratios(times[size], size)),
        cold=cold_starts(stream, model.package.folder, cold_runs),
        peak_mib=peak_memory(),
    )


def _actions(work: Sequence[dict[str, Part]]) -> list[dict[str, Any]]:
    return [{name: part.action for name, part in item.items()} for item in work]


def _part_times(work: Sequence[dict[str, Part]], times: Times, batch: int) -> list[PartTime]:
    return [
        PartTime(
            part=name,
            batch=batch,
            milliseconds=Spread.of(values / batch),
            size=float(np.mean([item[name].size for item in work])) / batch,
        )
        for name, values in times.items()
    ]


def _ratios(times: Times, batch: int) -> list[Ratio]:
    return [
        Ratio(part, rival, batch, pairwise_ratio(times, part, rival), bar if batch == 1 else None)
        for part, rival, bar in RATIOS
        if part in times and rival in times
    ]


def _batch(model: Model, photos: Sequence[bytes], quality: int | None, size: int) -> list[bytes]:
    """Take photos of the most common network-input size, over and over."""
    groups: dict[tuple[int, int], list[bytes]] = {}
    for photo in photos:
        stream = model.open(model.encode(photo, quality))
        groups.setdefault(stream.input_size, []).append(photo)
    largest = max(groups.values(), key=len)
    return [largest[position % len(largest)] for position in range(size)]


def read_photos(folder: Path | None) -> list[bytes]:
    """Read the photos of a folder, or draw one of a common size where None is named.

    Raises:
        CdvisionError: the folder holds no photo.
    """
    if folder is None:
        return [_drawn()]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise CdvisionError(f"{folder}: expected {', '.join(PHOTO_SUFFIXES)} files, found none")
    return [path.read_bytes() for path in paths]


def _drawn() -> bytes:
    rows, columns = np.mgrid[0:480, 0:640]
    waves = [np.sin(rows / (9 + 7 * k) + columns / (23 - 5 * k)) for k in range(3)]
    pixels = (127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)
    return parts.picture_file(pixels, parts.JPEG)


def format_speed(report: SpeedReport) -> str:
    """Lay a report out: times, then ratios with their bars, then memory and cold starts."""
    packages = versions("numpy", "onnxruntime", "pillow", "pillow-heif")
    lines = [
        f"{machine()}; {', '.join(f'{name} {number}' for name, number in packages.items())}",
        f"{report.model}, quality {report.quality}; {report.photos} photos, {report.rounds} "
        "rounds; every round runs every part once, in an order that rotates",
    ]
    for batch in dict.fromkeys(time.batch for time in report.times):
        lines += ["", *_time_lines([t for t in report.times if t.batch == batch], batch)]
    lines += ["", *_ratio_lines(report.ratios), "", *_cold_lines(report)]
    return "\n".join(lines)


def _time_lines(times: Sequence[PartTime], batch: int) -> list[str]:
    heading = "one photo at a time" if batch == 1 else f"{batch} photos at a time, for each photo"
    return [
        f"| {heading} | bytes | median ms | 10 % to 90 % |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {t.part} | {f'{t.size:,.0f}' if t.size else ''} | {_spread(t.milliseconds)} |"
            for t in times
        ),
    ]


def _ratio_lines(ratios: Sequence[Ratio]) -> list[str]:
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


def _cold_lines(report: SpeedReport) -> list[str]:
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
