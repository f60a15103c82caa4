"""Ways of a face to a receiver: as our stream of some layers, or through a picture codec.

::

    face ─┬─ encode, cut after n layers ─▶ bytes ─┬─ attributes
          │                                       └─ reconstruct ─────────────▶ picture
          ├─ shrink to scale x side ─ rival ─▶ bytes ─ rival ─ enlarge ───────▶ picture
          └─ as it is ────────────────────────────────────────────────────────▶ picture
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cdvision.evaluation.answer_cache import files_digest
from cdvision.evaluation.answer_formats import AttributeAnswer
from cdvision.evaluation.layers import LayerSender, with_layers
from cdvision.evaluation.rivals import Rival, shrink
from cdvision.photo import read_photo

if TYPE_CHECKING:
    from cdvision.model import Model

SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
"""Shares of the face's side that a rival may send: at 128 pixels no codec gets below 140 bytes."""

UNCOMPRESSED = "none"
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class FacePath:
    """One codec at one setting.

    Attributes:
        codec: its name in the records; curves are joined by it.
        setting: quality, and layers or scale.
        send: bytes of a face's file -> what is sent.
        picture: what was sent -> (R, R, 3) uint8.
        attributes: what was sent -> attributes; where None, the classifier looks at the picture.
        payload: what was sent -> bytes without a file's container.
        version: what else decides the bytes and the answers.
    """

    codec: str
    setting: dict[str, int | float]
    send: Callable[[bytes], bytes]
    picture: Callable[[bytes], Picture]
    attributes: Callable[[bytes], AttributeAnswer] | None = None
    payload: Callable[[bytes], int] = len
    version: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(
            [self.codec, *(f"{name} {value:g}" for name, value in self.setting.items())]
        )


def stream_paths(model: Model, qualities: Sequence[int], layers: Sequence[int]) -> list[FacePath]:
    """Return a face model's streams of every quality, cut after so many layers each."""
    version = {
        "fingerprint": model.card.fingerprint,
        "files": files_digest(model.card.files),
        "engine": type(model.engine).__name__,
    }

    def attributes(bits: bytes) -> AttributeAnswer:
        answer: AttributeAnswer = model.open(bits).attributes(all_attributes=True)
        return answer

    def picture(bits: bytes) -> Picture:
        return np.asarray(model.open(bits).reconstruct())

    senders = {
        quality: LayerSender(partial(model.encode, quality=quality)) for quality in qualities
    }
    return [
        FacePath(
            with_layers(f"cdvision {model.name}", count),
            {"quality": quality, "layers": count},
            partial(sender.send, layers=count),
            picture,
            attributes,
            version=version,
        )
        for quality, sender in senders.items()
        for count in layers
    ]


def rival_paths(rival: Rival, side: int, scales: Sequence[float] = SCALES) -> list[FacePath]:
    """Return every quality of a picture codec at every scale of a face of ``side`` pixels."""

    def send(image: bytes, quality: int, scale: float) -> bytes:
        return rival.encode(shrink(_face(image, side), max(1, round(scale * side))), quality)

    def picture(coded: bytes) -> Picture:
        from PIL import Image

        # Bicubic is the kindest way to enlarge what a rival had shrunk.
        return np.asarray(rival.decode(coded).resize((side, side), Image.Resampling.BICUBIC))

    return [
        FacePath(
            rival.name,
            {"quality": quality, "scale": scale},
            partial(send, quality=quality, scale=scale),
            picture,
            payload=rival.payload_bytes,
            version={"codec version": rival.describe()},
        )
        for scale in scales
        for quality in rival.qualities
    ]


def pixel_path(side: int) -> FacePath:
    """Return the path of faces that are not compressed at all."""
    return FacePath(UNCOMPRESSED, {}, lambda image: image, partial(original, side=side))


def original(image: bytes, side: int) -> Picture:
    """Return a face's pixels, (side, side, 3) uint8, averaged where they are more."""
    return np.asarray(_face(image, side))


def _face(image: bytes, side: int) -> Any:
    from PIL import Image

    face = read_photo(image)
    return face if face.size == (side, side) else face.resize((side, side), Image.Resampling.BOX)
