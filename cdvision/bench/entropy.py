"""``cdvision bench entropy``: our entropy coder beside CompressAI's and constriction's."""

from __future__ import annotations

import json as json_format
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.bench.entropy_coders import RIVALS, Coder, CodingJob, cdvision_coder
from cdvision.entropy.tables import gaussian_tables, log_scale_table, nearest_scale
from cdvision.machine import machine, versions

SYMBOLS = 196_608
LOG_SCALE_MEAN, LOG_SCALE_DEVIATION = -1.5, 1.2


def log_normal_job(count: int = SYMBOLS, seed: int = 0) -> tuple[CodingJob, NDArray[np.float64]]:
    """Gaussian symbols with log-normal scales, and those true scales, before the 64-level table.

    >>> job, scales = log_normal_job(count=1000)
    >>> job.symbols.shape, scales.shape, bool((job.symbols[job.index == 0] == 0).all())
    ((1000,), (1000,), True)
    """
    random = np.random.default_rng(seed)
    scale_table = log_scale_table(levels=64)
    scales = np.exp(random.normal(LOG_SCALE_MEAN, LOG_SCALE_DEVIATION, count))
    index = nearest_scale(scales, scale_table).astype(np.uint8)
    symbols = np.rint(random.normal(0.0, scales)).astype(np.int32)
    symbols[index == 0] = 0  # skipped: an encoder never sends these
    return CodingJob(symbols, index, gaussian_tables(scale_table), scale_table), scales


def gaussian_bits(symbols: NDArray[np.integer], scales: NDArray[np.float64]) -> float:
    """Ideal code length of ``symbols`` under real-valued Gaussians over unit bins.

    >>> round(gaussian_bits(np.array([0, 1]), np.array([1.0, 1.0])), 4)
    3.4334
    """
    # A Gaussian is even, so equal magnitudes at one scale cost the same: each pair is taken once.
    pairs, counts = np.unique(np.stack([np.abs(symbols), scales]), axis=1, return_counts=True)
    bits = 0.0
    for magnitude, scale, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        unit = scale * math.sqrt(2.0)
        # erfc of both ends, not erf: in the tails 1 - erf would have no digits left.
        upper = math.erfc((magnitude + 0.5) / unit)
        bits -= count * math.log2(0.5 * (math.erfc((magnitude - 0.5) / unit) - upper))
    return bits


def bench_entropy(
    count: int = SYMBOLS, *, repetitions: int = 30, rivals: bool = True, seed: int = 0
) -> dict[str, Any]:
    """Time encoding and decoding on one core, for ours and the rivals that are installed.

    Returns a dict that JSON can hold: machine, versions, symbols, the estimates in bytes (of the
    real-valued Gaussian at the table's scale, and at the true one), and for each coder its bytes
    and seconds (median, quartiles, minimum) to encode and to decode.
    """
    job, true_scales = log_normal_job(count, seed)
    coded = job.index > 0
    coders = [cdvision_coder(job), *(make(job) for make in RIVALS if rivals)]
    with one_core():
        rows = [_coder_row(coder, job, repetitions) for coder in coders if coder is not None]
    return {
        "machine": machine(),
        "versions": versions("numpy", "torch", "compressai", "constriction"),
        "symbols": count,
        "skipped": int((~coded).sum()),
        "repetitions": repetitions,
        "estimate_bytes": gaussian_bits(job.symbols, job.scale_table[job.index]) / 8,
        "true_scale_bytes": gaussian_bits(job.symbols[coded], true_scales[coded]) / 8,
        "integer_table_bytes": job.tables.estimate_bits(job.symbols, job.index) / 8,
        "coders": rows,
    }


def format_entropy(report: dict[str, Any]) -> str:
    """Lay a report of ``bench_entropy`` out as Markdown."""
    ours = report["coders"][0]
    estimate, real = report["estimate_bytes"], ours["bytes"]
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"{report['machine']}; one core; {versions}",
        "",
        f"{report['symbols']:,} symbols ({report['skipped']:,} skipped), Gaussian with log-normal "
        f"scales, 64 tables; median (quartiles) of {report['repetitions']} repetitions.",
        "",
        "| coder | bytes | encode ms | decode ms | decode Msymbol/s | decode time, ours = 1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(_table_row(row, report["symbols"], ours) for row in report["coders"]),
        "",
        f"Estimate at the tables' scales {estimate:,.0f} bytes, at the true scales "
        f"{report['true_scale_bytes']:,.0f}, under the integer tables "
        f"{report['integer_table_bytes']:,.0f}; real {real:,} = {100 * real / estimate - 100:+.3f} "
        f"% of the first, {100 * real / report['true_scale_bytes'] - 100:+.3f} % of the second.",
    ]
    if len(report["coders"]) == 1:
        lines += ["", "No rival is installed: `pip install compressai constriction` adds them."]
    return "\n".join(lines)


def main_report(json: bool = False) -> str:
    """Run the benchmark; its report as Markdown, or as one line of JSON."""
    report = bench_entropy()
    return json_format.dumps(report) if json else format_entropy(report)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core, where the system lets us choose (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _coder_row(coder: Coder, job: CodingJob, repetitions: int) -> dict[str, Any]:
    data = coder.encode()
    exact = np.array_equal(coder.decode(data), job.symbols)
    return {
        "name": coder.name,
        "bytes": coder.size(data),
        "exact": bool(exact),
        "encode_s": _timed(coder.encode, repetitions),
        "decode_s": _timed(lambda: coder.decode(data), repetitions),
    }


def _timed(action: Callable[[], object], repetitions: int) -> dict[str, float]:
    seconds = []
    for _ in range(repetitions):
        start = perf_counter()
        action()
        seconds.append(perf_counter() - start)
    lower, median, upper = np.percentile(seconds, [25, 50, 75]).tolist()
    return {"median": median, "lower": lower, "upper": upper, "minimum": min(seconds)}


def _table_row(row: dict[str, Any], symbols: int, ours: dict[str, Any]) -> str:
    encode, decode = (
        f"{1e3 * t['median']:.3f} ({1e3 * t['lower']:.3f}–{1e3 * t['upper']:.3f})"  # noqa: RUF001
        for t in (row["encode_s"], row["decode_s"])
    )
    seconds, note = row["decode_s"]["median"], "" if row["exact"] else " (not exact)"
    return (
        f"| {row['name']}{note} | {row['bytes']:,} | {encode} | {decode} "
        f"| {symbols / seconds / 1e6:.1f} | {seconds / ours['decode_s']['median']:.1f}x |"
    )
