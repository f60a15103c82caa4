"""Streams cut after some of their layers: a photo is encoded once, and sent in several lengths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cdvision.stream import truncate_stream


class LayerSender:
    """Encodes each photo once, and keeps its stream for the next number of layers.

    Args:
        encode: bytes of a photo's file -> its whole stream.
    """

    def __init__(self, encode: Callable[[bytes], bytes]) -> None:
        self._encode = encode
        self._streams: dict[bytes, bytes] = {}

    def send(self, image: bytes, layers: int | None = None) -> bytes:
        """Return the stream of a photo's file, cut after ``layers`` layers; whole where None.

        Raises:
            CdvisionError: the stream has fewer layers.
        """
        if layers is None:
            return self._encode(image)
        digest = hashlib.sha256(image).digest()
        if digest not in self._streams:
            self._streams[digest] = self._encode(image)
        return truncate_stream(self._streams[digest], layers)


def with_layers(name: str, layers: int | None) -> str:
    """Return a name that also says how many layers were sent.

    >>> with_layers("cdvision faces", 1), with_layers("cdvision faces", None)
    ('cdvision faces, 1 layer', 'cdvision faces')
    """
    return name if layers is None else f"{name}, {layers} layer{'s' if layers > 1 else ''}"
