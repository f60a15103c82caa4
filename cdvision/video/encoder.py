"""``VideoEncoder``: frames of one camera to packets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cdvision.errors import CdvisionError
from cdvision.model import Model, loaded_model
from cdvision.stream.packets import FRAMES, MAX_DISTANCE, Packet, Picture, write_packet
from cdvision.video.map_sender import MapSender
from cdvision.video.motion_gate import MotionGate

if TYPE_CHECKING:
    from pathlib import Path

    from cdvision.entropy.delta_coder import MapState
    from cdvision.photo import FittedPhoto, ImageLike


class VideoEncoder:
    """Encodes the frames of one camera, each to a packet of some ten bytes and more.

    >>> import numpy as np, cdvision
    >>> sender = cdvision.VideoEncoder("small", quality=4)
    >>> frame = np.zeros((360, 640, 3), np.uint8)
    >>> key, still = sender.push(frame, time=0.0), sender.push(frame, time=0.2)
    >>> len(still)
    6

    Args:
        model: a loaded model, a name or a folder; the default model where None.
        quality: 1 (smallest) to 8; the model's default where None.
        key_seconds: a key at least so often: a receiver can join there.
        fps: frames a second; frames are numbered by it, and times are told in its steps.
        size: long side of the network input, pixels, as for ``cdvision.encode``.
        gate: tell still pictures before the network runs; False runs it on each frame.

    Raises:
        CdvisionError: an option is out of range.
        ModelError: there is no such model, or it has no delta packets.
    """

    def __init__(
        self,
        model: Model | str | Path | None = None,
        quality: int | None = None,
        key_seconds: float = 10.0,
        *,
        fps: float = 5.0,
        size: int | None = None,
        gate: bool = True,
    ) -> None:
        for name, value, high in (("key_seconds", key_seconds, 86400.0), ("fps", fps, 1000.0)):
            if not (math.isfinite(value) and 0.001 <= value <= high):
                raise CdvisionError(f"{name}: expected 0.001 to {high:g}, found {value!r}")
        self.model = loaded_model(model)
        self.model.check_encoding(quality, size=size)
        self.quality = self.model.checked_quality(quality)
        self.fps, self.key_seconds = fps, key_seconds
        self._sender = MapSender(self.model, self.quality, size)
        self._deltas = self.model.package.delta_coder
        self._gate = MotionGate() if gate else None
        self._state: MapState | None = None
        self._source = (0, 0)
        self._frame, self._key_frame = -1, -1

    def request_key(self) -> None:
        """Make the next packet a key: a receiver has lost its reference."""
        self._state = None

    def push(self, frame: ImageLike, time: float | None = None, *, channels: str = "rgb") -> bytes:
        """Return the packet of one frame.

        Args:
            frame: what ``cdvision.encode`` takes; an (H, W, 3) uint8 array mostly.
            time: seconds since the start; the frame after the last one where None.
            channels: ``"bgr"`` for OpenCV's arrays.

        Raises:
            ImageError: it is no image.
            CdvisionError: ``time`` is negative or not finite.
        """
        number = self._numbered(time)
        photo = self._sender.fitted(frame, channels)
        data = self._key(photo, number) if self._key_due(photo, number) else None
        packet = data if data is not None else self._delta(photo, number)
        self._frame = number
        return write_packet(packet)

    def _numbered(self, time: float | None) -> int:
        if time is None:
            return self._frame + 1
        if not (math.isfinite(time) and time >= 0):
            raise CdvisionError(f"time: expected seconds from 0 on, found {time!r}")
        # A camera's clock jitters: two frames never get one number.
        return max(self._frame + 1, round(time * self.fps))

    def _key_due(self, photo: FittedPhoto, number: int) -> bool:
        if self._state is None or photo.source_size != self._source:
            return True
        if number - self._frame > MAX_DISTANCE:
            return True
        return number - self._key_frame >= self.key_seconds * self.fps

    def _key(self, photo: FittedPhoto, number: int) -> Packet:
        encoded, self._state = self._sender.key(photo)
        self._key_frame, self._source = number, photo.source_size
        if self._gate is not None:
            self._gate.remember(photo.pixels)
        height, width = photo.pixels.shape[:2]
        picture = Picture(
            fingerprint=self._deltas.fingerprint(self.model.package.coder)[:4],
            input_width=width,
            input_height=height,
            width=photo.source_size[0],
            height=photo.source_size[1],
            rate=max(1, round(1000 * self.fps)),
        )
        return Packet(number % FRAMES, self.quality, encoded.body, picture)

    def _delta(self, photo: FittedPhoto, number: int) -> Packet:
        state, distance = self._state, number - self._frame
        if state is None:
            raise CdvisionError("a delta packet needs a key before it")
        still = self._gate is not None and self._gate.is_still(photo.pixels)
        symbols = state.symbols if still else self._sender.next_symbols(photo, state)
        body, self._state = self._deltas.encode(state, symbols)
        return Packet(number % FRAMES, self.quality, body, distance=distance)
