"""Accuracy of a picture codec in front of the uncompressed networks, at several picture sizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from cdvision.evaluation.labelled import LabelledPhoto
from cdvision.evaluation.pixel_networks import ask_pixels
from cdvision.evaluation.rivals import Rival, shrink
from cdvision.photo import content_size, read_photo, working_size
from cdvision.tasks import WEAK_BOXES

if TYPE_CHECKING:
    from PIL.Image import Image

    from cdvision.evaluation.curve import LabelledSet, Record
    from cdvision.evaluation.pixel_networks import PixelNetworks
    from cdvision.package.card import InputSpec
    from cdvision.results import Detections

# Shares of the networks' working size (or of a smaller photo) that a rival may send.
SCALES = (1.0, 0.75, 0.5)

_QUEUED = 16  # photos a thread that are held at a time


@dataclass(frozen=True)
class RivalPath:
    """A photo's way through a picture codec into the uncompressed networks.

    ::

        photo ─ shrink to scale x working size ─ rival ─▶ bytes ─ rival ─ enlarge ─ network

    Scale 1 sends the pixels that the network sees; what is smaller is enlarged behind the rival.
    """

    rival: Rival
    quality: int
    scale: float
    reference: PixelNetworks

    def __str__(self) -> str:
        return f"{self.rival.name} {self.quality}, scale {self.scale:g}"

    def send(self, image: bytes) -> bytes:
        """Return the bytes that a photo's file costs."""
        sent = sent_picture(read_photo(image), self.scale, self.reference.package.card.input)
        return self.rival.encode(sent, self.quality)

    def ask(self, task: str, coded: bytes, image: bytes) -> Any:
        """Answer a task from the decoded picture; see ``detect``."""
        if task == "detect":
            return self.detect(coded, image)
        return ask_pixels(self.reference, task, self.rival.decode(coded))

    def detect(self, coded: bytes, image: bytes) -> Detections:
        """Detect in the decoded picture, enlarged to what the pixel path makes of the photo.

        Args:
            coded: what ``send`` returned.
            image: the photo's file: boxes are scaled to its pixels.
        """
        from PIL import Image

        spec, size = self.reference.package.card.input, read_photo(image).size
        working = working_size(size, spec)
        seen = content_size(size, (working, working), spec.multiple)
        found = self.reference.detect(
            self.rival.decode(coded).resize(seen, Image.Resampling.BILINEAR),
            **WEAK_BOXES,
            size=working,
        )
        # Boxes come in pixels of what the network saw; sides are rounded apart, so scales differ.
        scale = np.array(size, np.float32) / np.array(seen, np.float32)
        return replace(found, xyxy=found.xyxy * np.tile(scale, 2), image_size=size)


def sent_picture(photo: Image, scale: float, spec: InputSpec) -> Image:
    """Return the picture that a codec sends at a scale of what a network of ``spec`` sees."""
    # A small photo is enlarged behind the codec.
    longest = min(working_size(photo.size, spec), max(photo.size))
    return shrink(photo, max(1, round(scale * longest)))


def rival_record(path: RivalPath, data: LabelledSet, *, jobs: int = 1) -> Record:
    """Measure a picture codec at one quality and scale, encoding in ``jobs`` threads.

    Returns:
        The record of ``LabelledSet.measure`` with codec, quality, scale and
        ``mean_payload_bytes``, the bytes without the files' containers.
    """
    # All are coded first, in threads: the networks then have the cores for themselves.
    coded: dict[bytes, bytes] = {}
    payload = []
    for photo, sent in _encode_all(path, data.photos, jobs):
        coded[_digest(photo)] = sent
        payload.append(path.rival.payload_bytes(sent))
    found = data.measure(
        lambda image: coded[_digest(image)], partial(path.ask, data.task), str(path)
    )
    return {
        "codec": path.rival.name,
        "quality": path.quality,
        "scale": path.scale,
        "mean_payload_bytes": float(np.mean(payload)),
        **found,
    }


def rival_paths(
    rival: Rival, reference: PixelNetworks, scales: Sequence[float] = SCALES
) -> list[RivalPath]:
    """Return every quality of a picture codec at every scale."""
    return [
        RivalPath(rival, quality, scale, reference)
        for scale in scales
        for quality in rival.qualities
    ]


def _encode_all(
    path: RivalPath, photos: Iterable[LabelledPhoto], jobs: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield each photo's file and what is sent for it; encoders let other threads run."""
    bar = tqdm(photos, desc=f"{path}, encoding", unit="photo", disable=None)
    files = (photo.data for photo in bar)
    with ThreadPoolExecutor(jobs) as pool:
        while batch := list(islice(files, _QUEUED * jobs)):
            yield from zip(batch, pool.map(path.send, batch), strict=True)


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()
