"""``cdvision bench speed``: from a stream to boxes, beside a JPEG and the uncompressed network."""

from __future__ import annotations

import io
import json as json_format
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from cdvision.bench.machine import machine, versions
from cdvision.errors import CdvisionError
from cdvision.heads.dense_detection import detect_from_dense
from cdvision.model import Model, load
from cdvision.photo import content_size, fit_photo, read_photo

REPETITIONS = 30
ROUNDS = 3
JPEG_QUALITY = 85
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one part over all photos and repetitions."""

    part: str
    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    size: float  # mean bytes that the part reads or writes


def bench_speed(
    model: Model,
    photos: Sequence[bytes],
    *,
    repetitions: int = REPETITIONS,
    quality: int | None = None,
) -> list[Timing]:
    """Time the whole chain and its parts on every photo, in one process.

    The rival decodes a JPEG of the same picture at the network's input size, which is the least
    that a camera could send it, and runs the whole network of the same architecture with the
    same engine and the same post-processing.

    Args:
        model: a model with a detector.
        photos: image files.
        repetitions: counted runs of every part on every photo.
        quality: quality of the streams; the card's default where None.
    """
    parts: dict[str, list[float]] = {}
    sizes: dict[str, list[int]] = {}
    work = [_actions(model, photo, quality) for photo in photos]
    for _ in range(ROUNDS):  # rounds, so that a noisy moment hits all parts
        for actions in work:
            for part, (action, size) in actions.items():
                parts.setdefault(part, []).extend(_times(action, repetitions // ROUNDS))
                sizes.setdefault(part, []).append(size)
    return [_timing(part, times, sizes[part]) for part, times in parts.items()]


def _times(action: Callable[[], object], repetitions: int) -> list[float]:
    """Milliseconds of runs in a row, after two that are not counted.

    A sender only sends and a receiver only receives: parts are not mixed run by run, or the
    spinning threads of one would be charged to the next.
    """
    times = []
    for _ in range(repetitions + 2):
        started = perf_counter()
        action()
        times.append(1000 * (perf_counter() - started))
    return times[2:]


def _actions(
    model: Model, photo: bytes, quality: int | None
) -> dict[str, tuple[Callable[[], object], int]]:
    bits = model.encode(photo, quality)
    stream = model.open(bits)
    stream.detect()
    width, height = stream.input_size
    tail = stream.tail_for("detect")
    fitted = fit_photo(read_photo(photo), model.card.input, max(width, height))
    jpeg = _jpeg(fitted.pixels[: stream.content_size[1], : stream.content_size[0]])

    def networks() -> None:
        again = model.open(bits)
        again.keep_latents(stream.latents())
        again.dense(tail)

    return {
        "encode (photo to stream)": (lambda: model.encode(photo, quality), len(bits)),
        "entropy decoding": (lambda: model.open(bits).latents(), len(bits)),
        "tap + tail + head": (networks, 0),
        "post-processing": (lambda: stream.detect(), 0),
        "detect(stream)": (lambda: model.detect(bits), len(bits)),
        "classify(stream)": (lambda: model.classify(bits), len(bits)),
        "JPEG decode": (lambda: read_photo(jpeg), len(jpeg)),
        "JPEG decode + uncompressed network": (lambda: _rival(model, jpeg, tail), len(jpeg)),
    }


def _rival(model: Model, jpeg: bytes, tail: str) -> object:
    """Detect from a JPEG as a server without a codec does, with the same post-processing."""
    spec = model.card.input
    fitted = fit_photo(read_photo(jpeg), spec, spec.size)
    height, width = fitted.pixels.shape[:2]
    dense = model.engine.run(f"reference.{tail}", {"image": fitted.pixels[None]})
    return detect_from_dense(
        dense["scores"][0],
        dense["distances"][0],
        input_size=(width, height),
        content_size=content_size(fitted.source_size, (width, height)),
        source_size=fitted.source_size,
        class_names=model.package.classes[model.card.tails[tail].classes],
        confidence=0.3,
    )


def _jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _timing(part: str, times: Sequence[float], sizes: Sequence[int]) -> Timing:
    low, median, high = (float(v) for v in np.percentile(times, (10, 50, 90)))
    return Timing(part, median, low, high, float(np.mean(sizes)))


def format_speed(timings: Sequence[Timing]) -> str:
    """Markdown table, and the ratio that matters."""
    packages = versions("numpy", "numba", "onnxruntime", "pillow")
    lines = [
        f"{machine()}; {', '.join(f'{name} {number}' for name, number in packages.items())}", "",
        "| part | bytes | median ms | 10 % to 90 % |", "|---|---|---|---|",
    ]  # fmt: skip
    for t in timings:
        size = f"{t.size:,.0f}" if t.size else ""
        lines.append(f"| {t.part} | {size} | {t.median:.2f} | {t.low:.2f} to {t.high:.2f} |")
    return "\n".join([*lines, "", f"detect(stream) takes {ratio(timings):.2f} x the rival's time"])


def ratio(timings: Sequence[Timing]) -> float:
    """Time of ``detect(stream)`` over JPEG decode + uncompressed network, medians of one run."""
    median = {t.part: t.median for t in timings}
    return median["detect(stream)"] / median["JPEG decode + uncompressed network"]


def main_report(*, model: str | None = None, photos: Path | None = None, json: bool = False) -> str:
    """Run the benchmark and return its report as Markdown or as one JSON object."""
    loaded = load() if model is None else load(model)
    timings = bench_speed(loaded, _read(photos) if photos is not None else [_drawn()])
    if not json:
        return format_speed(timings)
    return json_format.dumps({"machine": machine(), "ratio": ratio(timings),
                              "parts": [asdict(t) for t in timings]})  # fmt: skip


def _read(folder: Path) -> list[bytes]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise CdvisionError(f"{folder} holds no photo")
    return [path.read_bytes() for path in paths]


def _drawn() -> bytes:
    """A drawn picture of a common size, for machines without photos at hand."""
    rows, columns = np.mgrid[0:480, 0:640]
    waves = [np.sin(rows / (9 + 7 * k) + columns / (23 - 5 * k)) for k in range(3)]
    return _jpeg((127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8))
