"""The container: a header, then the layers' payloads, each closed by its own checksum.

::

    +--------+----------------+-------+----------------+-------+
    | header | body           | CRC   | body           | CRC   |  ...
    +--------+----------------+-------+----------------+-------+
             |<------- layer 0 ------>|<------- layer 1 ------>|
             ^                        ^                        ^
             a stream may be cut at each of these, and stays a stream

Because the header lists every length, a receiver knows after some 20 bytes how much to fetch for
the layers that it wants, and a sender may stop after any layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream.checksums import CHECKSUMS, Buffer, Checksum, byte_view
from cdvision.stream.compact import encode_compact_header
from cdvision.stream.header import (
    COMPACT_VERSION,
    FORMAT_VERSION,
    LayerEntry,
    StreamHeader,
    encode_header,
)
from cdvision.stream.parser import DEFAULT_LIMITS, StreamLimits, decode_header


@dataclass(frozen=True)
class Layer:
    """One layer as a codec sees it: its id, and its bytes without the checksum."""

    id: int
    body: bytes


@dataclass(frozen=True)
class ParsedStream:
    """A stream taken apart."""

    # As written; its layer table also lists the layers that a truncation cut off.
    header: StreamHeader
    layers: tuple[Layer, ...]  # the intact layers, in order
    complete: bool  # every layer of the header's table is in ``layers``
    size: int  # bytes of the stream, header and checksums included: what a rate must count


def write_stream(
    *,
    codec: int,
    fingerprint: bytes,
    width: int,
    height: int,
    input_width: int,
    input_height: int,
    quality: int,
    layers: Sequence[Layer],
    compact: bool = False,
) -> bytes:
    """Return the stream that holds ``layers``, in their order.

    >>> picture = dict(width=640, height=480, input_width=416, input_height=312, quality=4)
    >>> bits = write_stream(codec=1, fingerprint=b"demo", **picture, layers=[Layer(0, b"latents")])
    >>> len(bits), read_stream(bits).layers
    (32, (Layer(id=0, body=b'latents'),))

    Sizes are in pixels; see StreamHeader for each field. With ``compact`` it is format version 2,
    whose header and checksums take 20 bytes and less for one layer: for qualities up to 8, at most
    8 layers, and layer ids 0, 1, 2 ... in order.

    Raises:
        CdvisionError: a value that a stream cannot hold, such as an input width that is no
            multiple of 8, no layer at all, or two layers with one id.
    """
    version = COMPACT_VERSION if compact else FORMAT_VERSION
    checksum = CHECKSUMS[version].layer
    bodies = [byte_view(layer.body) for layer in layers]
    payloads = [bytes(body) + checksum.of(body) for body in bodies]
    table = (LayerEntry(layer.id, len(data)) for layer, data in zip(layers, payloads, strict=True))
    header = StreamHeader(
        codec=codec,
        fingerprint=fingerprint,
        width=width,
        height=height,
        input_width=input_width,
        input_height=input_height,
        quality=quality,
        layers=tuple(table),
        version=version,
    )
    encoded = encode_compact_header(header) if compact else encode_header(header)
    return b"".join([encoded, *payloads])


def read_stream(
    data: Buffer,
    *,
    limits: StreamLimits = DEFAULT_LIMITS,
    on_damage: Literal["raise", "drop"] = "raise",
) -> ParsedStream:
    """Take a stream, whole or cut, apart.

    A layer that is cut is dropped, with all behind it, and ``complete`` is False. So is a layer
    whose checksum disagrees with its body where ``on_damage`` is ``"drop"``, not ``"raise"``.

    Raises:
        BitstreamError: a damaged or cut header, a damaged layer, a limit exceeded, or bytes
            behind the last layer.
        TypeError: ``data`` is not bytes.
    """
    if on_damage not in ("raise", "drop"):
        raise CdvisionError(f'on_damage must be "raise" or "drop", not {on_damage!r}')
    view = byte_view(data)
    header, header_bytes = decode_header(view, limits)
    spans = list(layer_spans(header, header_bytes))
    end = spans[-1].end
    if len(view) > end:
        found = f"{len(view) - end} more"
        raise BitstreamError("end of stream", offset=end, expected="no byte", found=found)
    layers: list[Layer] = []
    for span in spans:
        if span.end > len(view) or (on_damage == "drop" and not span.intact(view)):
            break
        layers.append(Layer(span.entry.id, span.checked_body(view)))
    complete = len(layers) == len(header.layers)
    return ParsedStream(header, tuple(layers), complete, len(view))


def truncate_stream(data: Buffer, layers: int, *, limits: StreamLimits = DEFAULT_LIMITS) -> bytes:
    """Return the prefix of ``data`` that ends after its first ``layers`` layers.

    Raises:
        CdvisionError: ``layers`` is not in 1 … the number of layers that ``data`` holds whole.
        BitstreamError: the header cannot be read.
    """
    view = byte_view(data)
    ends = [span.end for span in layer_spans(*decode_header(view, limits))]
    present = sum(end <= len(view) for end in ends)
    if not 1 <= layers <= present:
        raise CdvisionError(f"cannot keep {layers} layers: this stream holds {present} whole ones")
    return bytes(view[: ends[layers - 1]])


@dataclass(frozen=True)
class LayerSpan:
    """Where one layer's payload lies in a stream, whether or not the bytes are there."""

    index: int
    entry: LayerEntry
    start: int
    checksum: Checksum

    @property
    def end(self) -> int:
        """Offset behind the layer's checksum."""
        return self.start + self.entry.length

    @property
    def body_end(self) -> int:
        """Offset behind the layer's body, where its checksum starts."""
        return self.end - self.checksum.size

    def checksums(self, view: memoryview) -> tuple[bytes, bytes]:
        """Return the checksum of the body, and the one that the stream holds for it."""
        computed = self.checksum.of(view[self.start : self.body_end])
        return computed, bytes(view[self.body_end : self.end])

    def intact(self, view: memoryview) -> bool:
        """Tell whether the checksum agrees with the body."""
        computed, stored = self.checksums(view)
        return computed == stored

    def checked_body(self, view: memoryview) -> bytes:
        """Return the body; raise BitstreamError where the checksum disagrees with it."""
        computed, stored = self.checksums(view)
        if computed != stored:
            # Turned round, little-endian bytes read as the number that they are.
            raise BitstreamError(
                f"layer {self.index} checksum (layer id {self.entry.id})",
                offset=self.body_end,
                expected=computed[::-1].hex(),
                found=stored[::-1].hex(),
            )
        return bytes(view[self.start : self.body_end])


def layer_spans(header: StreamHeader, header_bytes: int) -> Iterator[LayerSpan]:
    """Yield where each layer of the header's table lies."""
    start = header_bytes
    for index, entry in enumerate(header.layers):
        yield LayerSpan(index, entry, start, header.checksums.layer)
        start += entry.length
