"""The parts that `cdvision bench speed` times, for one photo or for a batch of one size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.bench.timing import Action
from cdvision.evaluation.rivals import RIVALS, missing
from cdvision.heads.dense_detection import detect_from_dense
from cdvision.model import Model
from cdvision.photo import FittedPhoto, fit_photo, read_photo
from cdvision.results import Detections
from cdvision.stream_answers import Stream

ENCODE, ENCODER = "encode (pixels to stream)", "encoder networks"
ENCODE_FOR = "encode (pixels to stream, for detect alone)"
TRANSCODE = "encode (photo file to stream)"
ENTROPY, NETWORKS, POST = "entropy decoding", "tap + tail + head", "post-processing"
DETECT, CLASSIFY, SEGMENT = "detect(stream)", "classify(stream)", "segment(stream)"
UNCOMPRESSED = "uncompressed network"
JPEG, WEBP, AVIF, HEVC = "JPEG", "WebP", "AVIF", "HEVC"

# Pillow's format, and the quality at which a picture hardly shows its codec.
# JPEG is baseline: the progressive files of `bench rate` are smaller and decode more slowly.
FORMATS = {JPEG: ("JPEG", 85), WEBP: ("WEBP", 80), AVIF: ("AVIF", 65), HEVC: ("HEIF", 50)}

Pixels = NDArray[np.uint8]


def decoding(rival: str) -> str:
    """Name of the part that decodes a rival's files."""
    return f"{rival} decode"


def end_to_end(rival: str) -> str:
    """Name of the part that detects in a rival's files."""
    return f"{rival} decode + {UNCOMPRESSED}"


@dataclass(frozen=True)
class Part:
    """One thing to time: it handles a whole batch.

    Attributes:
        action: what is timed.
        size: bytes that it reads or writes, for the whole batch; 0 where that means nothing.
    """

    action: Action
    size: int = 0


def make_parts(model: Model, photos: Sequence[bytes], quality: int | None) -> dict[str, Part]:
    """Prepare every part of a batch of photos that share one network-input size.

    The rivals decode the same pictures at that size, the least that a camera could send, and run
    the whole network of the same architecture on the same engine with the same post-processing.
    """
    streams = [model.encode(photo, quality) for photo in photos]
    opened = [model.open(bits) for bits in streams]
    for stream in opened:
        stream.detect()
    return {
        **_stream_parts(model, photos, streams, opened, quality),
        **_rival_parts(model, photos, opened),
    }


def _stream_parts(
    model: Model,
    photos: Sequence[bytes],
    streams: Sequence[bytes],
    opened: Sequence[Stream],
    quality: int | None,
) -> dict[str, Part]:
    size, tail = sum(map(len, streams)), opened[0].tail_for("detect")
    inputs = _joined([stream.graph_inputs(tail) for stream in opened])
    fitted = [_fitted(photo, stream) for photo, stream in zip(photos, opened, strict=True)]
    image = {"image": np.stack([photo.pixels for photo in fitted])}
    frames = [content_pixels(photo, s) for photo, s in zip(photos, opened, strict=True)]
    run = model.engine.run
    return {
        ENCODE: Part(lambda: [model.encode(frame, quality) for frame in frames], size),
        TRANSCODE: Part(lambda: [model.encode(photo, quality) for photo in photos], size),
        ENCODE_FOR: Part(
            lambda: [model.encode(frame, quality, tasks=["detect"]) for frame in frames]
        ),
        ENCODER: Part(partial(_encoders, model, fitted, inputs["quality"])),
        ENTROPY: Part(lambda: [model.open(bits).latents_for(tail) for bits in streams], size),
        NETWORKS: Part(lambda: run(f"answer.{tail}", inputs)),
        POST: Part(lambda: [stream.detect() for stream in opened]),
        DETECT: Part(partial(_answers, model, streams, "detect"), size),
        **{
            part: Part(partial(_answers, model, streams, task), size)
            for part, task in ((SEGMENT, "segment"), (CLASSIFY, "classify"))
            if task == "classify" or task in model.card.tasks
        },
        UNCOMPRESSED: Part(lambda: run(f"reference.{tail}", image)),
    }


def _encoders(model: Model, photos: Sequence[FittedPhoto], quality: NDArray[np.int64]) -> None:
    """Run the graphs of the sender on a batch."""
    sender = next(iter(model.card.senders.values()))
    for name, graph in sender.graphs.items():
        pictures = np.stack([model.picture_for(graph, photo) for photo in photos])
        model.engine.run(name, {graph.picture: pictures, "quality": quality})


def _answers(model: Model, streams: Sequence[bytes], task: str) -> object:
    """Answer as a user would: one stream through the façade, several through ``analyze``."""
    if len(streams) == 1:
        return getattr(model.open(streams[0]), task)()
    return list(model.analyze(streams, (task,), batch_size=len(streams)))


def _rival_parts(
    model: Model, photos: Sequence[bytes], opened: Sequence[Stream]
) -> dict[str, Part]:
    parts = {}
    for rival in rivals():
        pictures = [
            content_pixels(photo, stream) for photo, stream in zip(photos, opened, strict=True)
        ]
        files = [picture_file(picture, rival) for picture in pictures]
        size = sum(map(len, files))
        parts[decoding(rival)] = Part(partial(_decoded, files), size)
        parts[end_to_end(rival)] = Part(partial(detect_in_files, model, files, opened), size)
    return parts


@cache
def rivals() -> tuple[str, ...]:
    """Name the picture codecs that can be written and read here."""
    return tuple(name for name in FORMATS if missing(RIVALS[name.lower()]) is None)


def detect_in_files(
    model: Model, files: Sequence[bytes], opened: Sequence[Stream]
) -> list[Detections]:
    """Detect in image files as a server without a codec does, in one run of the network.

    The files are pictures at the size of the streams' content; the streams know the sizes.
    """
    tail, spec = opened[0].tail_for("detect"), model.card.input
    longest = max(opened[0].input_size)
    fitted = [fit_photo(read_photo(file), spec, longest) for file in files]
    images = np.stack([photo.pixels for photo in fitted])
    dense = model.engine.run(f"reference.{tail}", {"image": images})
    names = model.package.classes[model.card.tails[tail].classes]
    return [
        detect_from_dense(
            dense["scores"][position],
            dense["distances"][position],
            input_size=stream.input_size,
            content_size=stream.content_size,
            source_size=stream.source_size,
            class_names=names,
            confidence=0.3,
        )
        for position, stream in enumerate(opened)
    ]


def _decoded(files: Sequence[bytes]) -> object:
    return [np.asarray(read_photo(file)) for file in files]


def _fitted(photo: bytes, stream: Stream) -> FittedPhoto:
    return fit_photo(read_photo(photo), stream.model.card.input, max(stream.input_size))


def content_pixels(photo: bytes, stream: Stream) -> Pixels:
    """Return the pixels of a photo at the size of the network input, without the padding."""
    width, height = stream.content_size
    return _fitted(photo, stream).pixels[:height, :width]


def picture_file(pixels: Pixels, rival: str) -> bytes:
    """Encode pixels (H, W, 3) as a rival's file."""
    from PIL import Image

    buffer = io.BytesIO()
    name, quality = FORMATS[rival]
    Image.fromarray(pixels).save(buffer, name, quality=quality)
    return buffer.getvalue()


def _joined(inputs: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
