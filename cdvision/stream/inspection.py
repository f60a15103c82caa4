"""What a stream is, told from its header and checksums alone: no model, no entropy decoding."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from cdvision.stream.checksums import Buffer, byte_view
from cdvision.stream.container import LayerSpan, layer_spans
from cdvision.stream.parser import DEFAULT_LIMITS, StreamLimits, decode_header

LayerState: TypeAlias = Literal["ok", "damaged", "cut", "missing"]


@dataclass(frozen=True)
class LayerInfo:
    """One layer: where its payload lies, how long it is written to be, how much of it is here.

    ``state`` is ``"ok"``, ``"damaged"`` (its checksum disagrees), ``"cut"`` or ``"missing"``.
    """

    id: int
    offset: int
    bytes: int
    bytes_present: int
    state: LayerState


@dataclass(frozen=True)
class StreamInfo:
    """The header of a stream and the state of its layers; ``print`` it for a table.

    Sizes are in pixels; ``size`` counts the bytes that were given, ``trailing_bytes`` those of
    them behind the last layer (a reader refuses such a stream).
    """

    version: int
    codec: int
    fingerprint: str
    width: int
    height: int
    input_width: int
    input_height: int
    quality: int
    size: int
    header_bytes: int
    trailing_bytes: int
    layers: tuple[LayerInfo, ...]

    @property
    def complete(self) -> bool:
        """Whether every layer is here and intact."""
        return all(layer.state == "ok" for layer in self.layers)

    @property
    def bits_per_pixel(self) -> float:
        """Bits of these bytes, all counted, per pixel of the source image."""
        return 8 * self.size / (self.width * self.height)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain Python values."""
        facts = {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}
        return {**facts, "complete": self.complete, "bits_per_pixel": self.bits_per_pixel}

    def to_json(self) -> str:
        """Return ``to_dict`` as one line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """Return a table for people."""
        facts = (
            ("source image", f"{self.width} x {self.height}"),
            ("network input", f"{self.input_width} x {self.input_height}"),
            ("codec, model", f"{self.codec}, {self.fingerprint}"),
            ("quality", f"{self.quality}"),
            ("rate", f"{self.bits_per_pixel:.4f} bits per source pixel"),
            ("complete", "yes" if self.complete else "no"),
        )
        title = f"stream, format version {self.version}, {self.size:,} bytes"
        lines = [title, *(f"  {name:<14} {value}" for name, value in facts)]
        lines.append(f"  {'part':<8} {'id':>4} {'offset':>9} {'bytes':>9} {'share':>7}  state")
        return "\n".join([*lines, *self._part_lines()])

    def _part_lines(self) -> list[str]:
        lines = [self._part_line("header", "", 0, self.header_bytes, "ok")]
        for index, layer in enumerate(self.layers):
            state: str = layer.state
            if layer.bytes_present < layer.bytes:
                state += f", {layer.bytes_present:,} of {layer.bytes:,} bytes here"
            part = (f"layer {index}", str(layer.id), layer.offset, layer.bytes_present)
            lines.append(self._part_line(*part, state))
        if self.trailing_bytes:
            end = self.size - self.trailing_bytes
            lines.append(self._part_line("trailing", "", end, self.trailing_bytes, "unexpected"))
        return lines

    def _part_line(self, part: str, id_: str, offset: int, size: int, state: str) -> str:
        return f"  {part:<8} {id_:>4} {offset:>9,} {size:>9,} {size / self.size:>7.1%}  {state}"


def inspect(data: Buffer, *, limits: StreamLimits = DEFAULT_LIMITS) -> StreamInfo:
    """Describe a stream from its header; needs no model, and works on a truncated stream.

    >>> from cdvision.stream import Layer, write_stream
    >>> picture = dict(width=640, height=480, input_width=416, input_height=312, quality=4)
    >>> bits = write_stream(codec=1, fingerprint=b"demo", **picture, layers=[Layer(0, bytes(976))])
    >>> info = inspect(bits[:500])
    >>> info.width, info.quality, info.layers[0].state, info.complete
    (640, 4, 'cut', False)

    Raises:
        BitstreamError: the header is cut, damaged or over a limit. A damaged layer does not raise
            here: it is what one inspects a stream for.
        TypeError: ``data`` is not bytes.
    """
    view = byte_view(data)
    header, header_bytes = decode_header(view, limits)
    layers = tuple(_layer_info(span, view) for span in layer_spans(header, header_bytes))
    end = header_bytes + sum(layer.bytes for layer in layers)
    written = {**vars(header), "fingerprint": header.fingerprint.hex(), "layers": layers}
    trailing = max(0, len(view) - end)
    return StreamInfo(**written, size=len(view), header_bytes=header_bytes, trailing_bytes=trailing)


def _layer_info(span: LayerSpan, view: memoryview) -> LayerInfo:
    present = max(0, min(span.end, len(view)) - span.start)
    state: LayerState = "missing" if present == 0 else "cut"
    if present == span.entry.length:
        state = "ok" if span.intact(view) else "damaged"
    return LayerInfo(span.entry.id, span.start, span.entry.length, present, state)
