"""cdvision: machine vision on compressed streams of learned features.

>>> import cdvision
>>> bits = cdvision.encode("examples/photos/astronaut.jpg", quality=4)
>>> "person" in cdvision.detect(bits).class_name
True

A camera encodes a photo once; servers detect and classify from the bytes, without pixels.
Importing the package loads none of its engines: every name below is fetched when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cdvision.errors import (
    BitstreamError,
    CdvisionError,
    EngineError,
    ImageError,
    ModelError,
    UnsupportedTask,
)
from cdvision.version import __version__

if TYPE_CHECKING:
    from cdvision.api import attributes, classify, detect, encode, fit, open, reconstruct, segment
    from cdvision.face_crop import crop_face
    from cdvision.model import Model, load
    from cdvision.package.registry import list_models
    from cdvision.results import Attributes, Classification, Detections
    from cdvision.stream import StreamLimits, inspect
    from cdvision.stream_answers import Stream
    from cdvision.video.decoder import VideoDecoder
    from cdvision.video.encoder import VideoEncoder
    from cdvision.video.files import encode_video, open_video

__all__ = [
    "Attributes",
    "BitstreamError",
    "CdvisionError",
    "Classification",
    "Detections",
    "EngineError",
    "ImageError",
    "Model",
    "ModelError",
    "Stream",
    "StreamLimits",
    "UnsupportedTask",
    "VideoDecoder",
    "VideoEncoder",
    "__version__",
    "attributes",
    "classify",
    "crop_face",
    "detect",
    "encode",
    "encode_video",
    "fit",
    "inspect",
    "list_models",
    "load",
    "open",
    "open_video",
    "reconstruct",
    "segment",
]

# Modules of the names that are not the façade's.
_HOMES = {
    **dict.fromkeys(("Model", "load"), "cdvision.model"),
    "Stream": "cdvision.stream_answers",
    **dict.fromkeys(("StreamLimits", "inspect"), "cdvision.stream"),
    "crop_face": "cdvision.face_crop",
    "list_models": "cdvision.package.registry",
    "VideoDecoder": "cdvision.video.decoder",
    "VideoEncoder": "cdvision.video.encoder",
    **dict.fromkeys(("encode_video", "open_video"), "cdvision.video.files"),
    **dict.fromkeys(("Attributes", "Classification", "Detections"), "cdvision.results"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cdvision' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "cdvision.api")), name)
    # Kept, so that the next access finds it without this function.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
