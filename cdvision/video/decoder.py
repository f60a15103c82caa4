"""``VideoDecoder``: packets of one camera to views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdvision.entropy.delta_coder import MapState
from cdvision.errors import BitstreamError
from cdvision.model import Model, loaded_model
from cdvision.package.registry import folder_for_sequence
from cdvision.stream import LayerEntry, StreamHeader, StreamLimits
from cdvision.stream.packets import FRAMES, Packet, Picture, read_packet
from cdvision.stream.sequence import unwrapped
from cdvision.stream_answers import Stream
from cdvision.video.view import View

if TYPE_CHECKING:
    from pathlib import Path

    from cdvision.stream.checksums import Buffer

HALF = FRAMES // 2


class VideoDecoder:
    """Keeps what a camera's packets have told, and answers from it.

    A packet whose reference was lost, or whose bytes are damaged, makes views ``stale`` until the
    next key. A packet that comes twice or late changes nothing.

    Args:
        model: the model that wrote the packets; found by the first key where None.
        limits: the largest pictures and packets that are read.
    """

    def __init__(
        self, model: Model | str | Path | None = None, *, limits: StreamLimits | None = None
    ) -> None:
        self.model = None if model is None else loaded_model(model)
        self._limits = limits if limits is not None else StreamLimits()
        self._state: MapState | None = None
        self._picture: Picture | None = None
        self._view = View(-1, None, stale=True, stream=None)
        self._newest = -1  # of the packets that were read, applied or not

    def push(self, packet: Buffer) -> View:
        """Return the view after a packet.

        Raises:
            BitstreamError: the bytes are damaged, or no packet of this model. What was known stays.
        """
        parsed = read_packet(packet, limits=self._limits)
        frame = unwrapped(parsed.frame, self._newest)
        if self._newest >= 0 and not parsed.is_key and frame - self._newest > HALF:
            return self._view  # late, or twice
        try:
            self._view = self._key(parsed, frame) if parsed.is_key else self._delta(parsed, frame)
        except BitstreamError:
            self._lose(frame)
            raise
        self._newest = frame
        return self._view

    def _key(self, packet: Packet, frame: int) -> View:
        model, picture = self._model_for(packet), packet.picture
        spec = model.card.sequence
        if spec is None or picture is None:
            raise BitstreamError("key", expected="a model of sequences", found=model.name)
        coder, level = model.package.coder, packet.quality - 1
        # Sizes are checked by the stream before anything of their size is made.
        empty = Stream.of_latents(self._header(model, picture, packet.quality, ()), {}, model)
        shapes = model.card.latent_shapes(empty.input_size)
        latents = coder.decode_layer(spec.layer, packet.body, level, shapes, {})
        self._state = MapState.of_key(latents, coder, level)
        self._picture = picture
        return self._answering(frame)

    def _delta(self, packet: Packet, frame: int) -> View:
        state = self._state
        reference = (packet.frame - packet.distance) % FRAMES
        lost = self._view.stale or state is None or packet.quality - 1 != state.quality
        if lost or state is None or self._view.frame % FRAMES != reference or self.model is None:
            return self._lose(frame)
        self._state = self.model.package.delta_coder.decode(state, packet.body)
        if not packet.body:  # nothing changed: neither do the answers
            return View(frame, self._time(frame), stale=False, stream=self._view.stream)
        return self._answering(frame)

    def _lose(self, frame: int) -> View:
        self._view = View(frame, self._time(frame), stale=True, stream=self._view.stream)
        self._newest = frame
        return self._view

    def _answering(self, frame: int) -> View:
        model, state, picture = self.model, self._state, self._picture
        if model is None or state is None or picture is None or model.card.sequence is None:
            raise BitstreamError("key", expected="one before this packet", found="none")
        layers = (model.card.sequence.layer,)
        header = self._header(model, picture, state.quality + 1, layers)
        stream = Stream.of_latents(header, state.latents, model)
        return View(frame, self._time(frame), stale=False, stream=stream)

    def _model_for(self, packet: Packet) -> Model:
        picture = packet.picture
        wanted = b"" if picture is None else picture.fingerprint
        if self.model is None:
            self.model = loaded_model(folder_for_sequence(wanted))
        package = self.model.package
        found = package.delta_coder.fingerprint(package.coder)[:4]
        if found != wanted:
            expected = f"{found.hex()} ({self.model.name})"
            raise BitstreamError("model fingerprint", expected=expected, found=wanted.hex())
        if packet.quality > self.model.card.qualities:
            expected = f"1 to {self.model.card.qualities}"
            raise BitstreamError("quality", expected=expected, found=packet.quality)
        return self.model

    def _time(self, frame: int) -> float | None:
        return None if self._picture is None else 1000 * frame / self._picture.rate

    @staticmethod
    def _header(
        model: Model, picture: Picture, quality: int, layers: tuple[int, ...]
    ) -> StreamHeader:
        return StreamHeader(
            codec=model.card.codec,
            fingerprint=model.package.coder.fingerprint[:4],
            width=picture.width,
            height=picture.height,
            input_width=picture.input_width,
            input_height=picture.input_height,
            quality=quality,
            layers=tuple(LayerEntry(layer, 0) for layer in layers),
        )
