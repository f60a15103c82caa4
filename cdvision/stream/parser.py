"""Reading a header that nobody vouches for: structure, then checksum, then meaning.

::

    bytes ─ structure ─────────▶ checksum ─▶ meaning ──────────────▶ StreamHeader
            magic, version,      16 bits     ranges, unique ids, one spelling,
            varints, count                   StreamLimits

Meaning comes last, so that a flipped bit is reported as damage and not as an odd picture size. Only
the number of layers is bounded earlier, because a loop runs over it. Nothing is allocated by a
number from the stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from cdvision.errors import BitstreamError
from cdvision.stream.checksums import CHECKSUMS
from cdvision.stream.compact import FORM, Form, length_field
from cdvision.stream.header import (
    CODEC,
    COMPACT_VERSION,
    FINGERPRINT_BYTES,
    FORMAT_VERSION,
    LAYER_COUNT,
    MAGIC,
    PICTURE,
    LayerEntry,
    NumberField,
    StreamHeader,
    layer_fields,
)
from cdvision.stream.varint import decode_varint


@dataclass(frozen=True)
class StreamLimits:
    """The largest stream a reader accepts; raise a limit to read more from a source you trust."""

    max_pixels: int = 2**26  # of the source image, and of the network input
    max_layers: int = 16  # lines of the layer table
    max_layer_bytes: int = 2**26  # one layer's payload, checksum included


DEFAULT_LIMITS = StreamLimits()


def decode_header(
    data: memoryview, limits: StreamLimits = DEFAULT_LIMITS
) -> tuple[StreamHeader, int]:
    """Read the header at the start of ``data``; return it and its length in bytes.

    Raises:
        BitstreamError: the header is cut, damaged, of another format version, or over a limit.
    """
    cursor = _Cursor(data)
    version = _read_magic_and_version(cursor)
    codec = cursor.number(CODEC)
    fingerprint = cursor.take("fingerprint", FINGERPRINT_BYTES)
    read_rest = _read_compact if version == COMPACT_VERSION else _read_plain
    picture, layers = read_rest(cursor, limits)
    _read_checksum(cursor, version)
    cursor.check_ranges()
    header = StreamHeader(codec, fingerprint, **picture, layers=layers, version=version)
    _check_spelling(header, cursor)
    _check_sizes(header, cursor, limits)
    _check_layers(header, cursor, limits)
    return header, cursor.offset


class _Cursor:
    """A position in the data that remembers where each number stood, for checks made later."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.offset = data, 0
        self.numbers: dict[str, tuple[NumberField, int, int]] = {}

    def take(self, field: str, size: int) -> bytes:
        taken = bytes(self.data[self.offset : self.offset + size])
        if len(taken) < size:
            found = f"{len(taken)}, then the end of the data (the header is cut)"
            raise BitstreamError(field, offset=self.offset, expected=f"{size} bytes", found=found)
        self.offset += size
        return taken

    def number(self, field: NumberField) -> int:
        start = self.offset
        stored, self.offset = decode_varint(self.data, start, field.name)
        self.numbers[field.name] = (field, stored, start)
        return stored * field.unit

    def refuse(self, name: str, expected: str, found: object, at: str = "") -> NoReturn:
        """Raise BitstreamError with the offset of a number, of ``at`` where that is another."""
        start = self.numbers[at or name][2]
        raise BitstreamError(name, offset=start, expected=expected, found=found)

    def check_ranges(self) -> None:
        for name, (field, stored, _) in self.numbers.items():
            if not field.low <= stored <= field.high:
                self.refuse(name, field.domain, stored * field.unit)


def _read_magic_and_version(cursor: _Cursor) -> int:
    magic = cursor.take("magic", len(MAGIC))
    if magic != MAGIC:
        raise BitstreamError("magic", offset=0, expected=MAGIC, found=magic)
    start = cursor.offset
    version = cursor.take("format version", 1)[0]
    if version not in (FORMAT_VERSION, COMPACT_VERSION):
        known = f"{FORMAT_VERSION} or {COMPACT_VERSION}"
        expected = f"{known}, which this release reads (upgrade cdvision to read newer)"
        raise BitstreamError("format version", offset=start, expected=expected, found=version)
    return version


Rest = tuple[dict[str, int], tuple[LayerEntry, ...]]
"""Sizes and quality, and the layer table."""


def _read_plain(cursor: _Cursor, limits: StreamLimits) -> Rest:
    picture = {field.name: cursor.number(field) for field in PICTURE}
    count = cursor.number(LAYER_COUNT)
    # Checked before its time: the loop below runs over a number that nothing vouches for.
    _check_count(count, cursor.numbers[LAYER_COUNT.name][2], limits)
    pairs = (layer_fields(index) for index in range(count))
    layers = (LayerEntry(cursor.number(id_), cursor.number(length)) for id_, length in pairs)
    return picture, tuple(layers)


def _read_compact(cursor: _Cursor, limits: StreamLimits) -> Rest:
    start = cursor.offset
    form = Form.parsed(cursor.take(FORM, 1)[0])
    _check_count(form.layers, start, limits)
    picture = {field.name: cursor.number(field) for field in form.picture_fields()}
    picture.setdefault("input_height", picture["input_width"])
    for name in ("width", "height"):
        picture.setdefault(name, picture[f"input_{name}"])
    layers = (LayerEntry(k, cursor.number(length_field(k))) for k in range(form.layers))
    return {**picture, "quality": form.quality}, tuple(layers)


def _check_count(count: int, offset: int, limits: StreamLimits) -> None:
    if count > limits.max_layers:
        expected = f"at most {limits.max_layers} (StreamLimits.max_layers)"
        raise BitstreamError(LAYER_COUNT.name, offset=offset, expected=expected, found=count)


def _read_checksum(cursor: _Cursor, version: int) -> None:
    start, checksum = cursor.offset, CHECKSUMS[version].header
    computed = checksum.of(cursor.data[:start])
    stored = cursor.take("header checksum", checksum.size)
    if stored != computed:
        raise BitstreamError(
            "header checksum", offset=start, expected=computed.hex(), found=stored.hex()
        )


def _check_spelling(header: StreamHeader, cursor: _Cursor) -> None:
    """Refuse sizes in a compact header that its form byte should have left out."""
    if header.version != COMPACT_VERSION:
        return
    for name, needed, other in (
        ("input_height", Form.of(header).other_height, "the input width"),
        ("width", Form.of(header).other_source, "the network input's size"),
    ):
        if name in cursor.numbers and not needed:
            cursor.refuse(name, f"no value, or another than {other}", getattr(header, name))


def _check_sizes(header: StreamHeader, cursor: _Cursor, limits: StreamLimits) -> None:
    sizes = (
        ("source size", "width", header.width, header.height),
        ("network-input size", "input_width", header.input_width, header.input_height),
    )
    for name, first, width, height in sizes:
        # A compact header leaves the source's size out where it is the network input's.
        at = first if first in cursor.numbers else "input_width"
        if width * height > limits.max_pixels:
            expected = f"at most {limits.max_pixels} pixels (StreamLimits.max_pixels)"
            cursor.refuse(name, expected, f"{width} x {height} = {width * height}", at)


def _check_layers(header: StreamHeader, cursor: _Cursor, limits: StreamLimits) -> None:
    seen: set[int] = set()
    for index, entry in enumerate(header.layers):
        id_, length = layer_fields(index)
        if entry.id in seen:
            cursor.refuse(id_.name, "an id not used before", entry.id)
        seen.add(entry.id)
        if entry.length > limits.max_layer_bytes:
            expected = f"at most {limits.max_layer_bytes} bytes (StreamLimits.max_layer_bytes)"
            cursor.refuse(length.name, expected, entry.length)
