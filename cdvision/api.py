"""The façade: one call from a photo to a stream, one call from a stream to an answer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdvision.model import Model, load
from cdvision.opened import Stream
from cdvision.package.registry import DEFAULT_MODEL, folder_for_fingerprint, installed_models
from cdvision.stream import inspect, read_stream

if TYPE_CHECKING:
    from cdvision.package.registry import ModelInfo
    from cdvision.photo import ImageLike
    from cdvision.results import Classification, Detections

__all__ = ["classify", "detect", "encode", "inspect", "load", "models", "open", "segment"]

ModelLike = Model | str | Path | None


def encode(
    image: ImageLike,
    quality: int | None = None,
    *,
    model: ModelLike = None,
    size: int | None = None,
) -> bytes:
    """Encode a photo into a stream of a few kilobytes.

    >>> import numpy as np, cdvision
    >>> bits = cdvision.encode(np.zeros((480, 640, 3), np.uint8), quality=2)
    >>> bits[:3]
    b'CDV'

    Args:
        image: path, bytes of an image file, PIL image or (H, W, 3) uint8 RGB array.
        quality: 1 (smallest) to 8; the model's default where None.
        model: a loaded model, a name or a folder; the default model where None.
        size: long side of the network input in pixels; where None, the photo's own up to 416.

    Raises:
        ImageError: the image cannot be read.
    """
    return _model(model).encode(image, quality, size=size)


def open(bits: bytes, *, model: ModelLike = None) -> Stream:
    """Open a stream to ask several questions; the work behind them is shared.

    Args:
        bits: a stream.
        model: the model that wrote it; found by the stream's fingerprint where None.

    Raises:
        BitstreamError: the bytes are no stream of an installed model.
    """
    if model is None:
        model = folder_for_fingerprint(read_stream(bits).header.fingerprint)
    return _model(model).open(bits)


def detect(bits: bytes, *, model: ModelLike = None, **options: Any) -> Detections:
    """Detect objects from a stream, without rebuilding pixels; see ``Stream.detect``."""
    return open(bits, model=model).detect(**options)


def segment(bits: bytes, *, model: ModelLike = None, **options: Any) -> Detections:
    """Detect objects with masks from a stream; see ``Stream.segment``."""
    return open(bits, model=model).segment(**options)


def classify(bits: bytes, *, top: int = 5, model: ModelLike = None) -> Classification:
    """Classify a photo from its stream, without rebuilding pixels; see ``Stream.classify``."""
    return open(bits, model=model).classify(top=top)


def models() -> list[ModelInfo]:
    """List the installed models."""
    return installed_models()


def _model(model: ModelLike) -> Model:
    return model if isinstance(model, Model) else _loaded(DEFAULT_MODEL if model is None else model)


@cache
def _loaded(name: str | Path) -> Model:
    return load(name)
