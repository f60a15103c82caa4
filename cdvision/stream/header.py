"""The header: who wrote a stream, of which picture, and where each layer ends.

Format version 1; ``compact`` has the shorter version 2, for pictures of a hundred bytes.

::

    bytes   3     1         v       4             v       v        v         v
          +-----+---------+-------+-------------+-------+--------+---------+----------+
          | CDV | version | codec | fingerprint | width | height | input   | input    |
          |     |    1    |       | (of model)  |   (source)     | width/8 | height/8 |
          +-----+---------+-------+-------------+-------+--------+---------+----------+
            v         v          v    v        (repeated)      2
          +---------+----------+----+--------+----+--------+----------+
          | quality | number   | id | length | id | length | checksum |       v: varint
          |         | of layers|  layer 0    |  layer 1    |          |
          +---------+----------+----+--------+----+--------+----------+

The checksum is the low half of the CRC-32 over every byte before it, little-endian. The fingerprint
is raw: the first four bytes of the SHA-256 over the model's entropy tables, so a stream names its
tables by what they *are*, not by a position in a registry.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import lru_cache

from cdvision.errors import CdvisionError
from cdvision.stream.checksums import CHECKSUMS, Checksums
from cdvision.stream.varint import VARINT_MAX, encode_varint

MAGIC = b"CDV"
FORMAT_VERSION = 1
COMPACT_VERSION = 2
FINGERPRINT_BYTES = 4
INPUT_UNIT = 8


@dataclass(frozen=True)
class LayerEntry:
    """One line of the layer table: a layer's id, and its payload's bytes, checksum included."""

    id: int
    length: int


@dataclass(frozen=True)
class StreamHeader:
    """Everything a stream says before its first layer; sizes are in pixels.

    ``width`` and ``height`` are the source's; those of the network input are multiples of 8. The
    layers are those that were written, in order; a truncated stream holds fewer of them.
    """

    codec: int
    fingerprint: bytes  # four bytes that name the entropy tables of the model
    width: int
    height: int
    input_width: int
    input_height: int
    quality: int  # the rate knob, 1 (smallest) to 255
    layers: tuple[LayerEntry, ...]
    version: int = FORMAT_VERSION  # 2 is the compact form

    @property
    def checksums(self) -> Checksums:
        """What closes this header and the layers behind it."""
        return CHECKSUMS[self.version]


@dataclass(frozen=True)
class NumberField:
    """One varint of the header: its name, its unit, and the bounds of what is stored."""

    name: str
    low: int = 0
    high: int = VARINT_MAX
    unit: int = 1

    @property
    def domain(self) -> str:
        """The values this field may take, in words."""
        kind = "a whole number" if self.unit == 1 else f"a multiple of {self.unit}"
        return f"{kind} from {self.low * self.unit} to {self.high * self.unit}"

    def encode(self, value: int) -> bytes:
        """Return the varint of ``value``; raise CdvisionError where the field cannot hold it."""
        try:
            stored, rest = divmod(operator.index(value), self.unit)
        except TypeError:
            stored, rest = 0, 1
        if rest or not self.low <= stored <= self.high:
            raise CdvisionError(
                f"a stream cannot hold {self.name} = {value!r}: expected {self.domain}"
            )
        return encode_varint(stored)


CODEC = NumberField("codec")
PICTURE = (
    NumberField("width", low=1),
    NumberField("height", low=1),
    NumberField("input_width", low=1, unit=INPUT_UNIT),
    NumberField("input_height", low=1, unit=INPUT_UNIT),
    NumberField("quality", low=1, high=255),
)
LAYER_COUNT = NumberField("number of layers", low=1)


# Cached, because every stream asks for the first few.
@lru_cache(maxsize=64)
def layer_fields(index: int) -> tuple[NumberField, NumberField]:
    """Return the two fields of line ``index`` of the layer table."""
    length = NumberField(f"layer {index} length", low=CHECKSUMS[FORMAT_VERSION].layer.size)
    return NumberField(f"layer {index} id"), length


def encode_header(header: StreamHeader) -> bytes:
    """Return the bytes of ``header`` in format version 1, checksum included.

    Raises:
        CdvisionError: a value does not fit its field, or two layers share an id.
    """
    ids = [entry.id for entry in header.layers]
    if len(set(ids)) < len(ids):
        raise CdvisionError(f"a stream cannot hold two layers with one id: found ids {ids}")
    parts = [field.encode(getattr(header, field.name)) for field in PICTURE]
    parts.append(LAYER_COUNT.encode(len(ids)))
    for index, entry in enumerate(header.layers):
        id_field, length_field = layer_fields(index)
        parts += [id_field.encode(entry.id), length_field.encode(entry.length)]
    return closed_header(header, parts)


def closed_header(header: StreamHeader, parts: list[bytes]) -> bytes:
    """Return the head that both versions share, the parts behind it, and the checksum.

    Raises:
        CdvisionError: the fingerprint is not one, or the codec is no number.
    """
    fingerprint = header.fingerprint
    is_bytes = isinstance(fingerprint, bytes | bytearray | memoryview)
    if not is_bytes or len(fingerprint) != FINGERPRINT_BYTES:
        raise CdvisionError(
            f"a stream cannot hold fingerprint = {fingerprint!r}: "
            f"expected {FINGERPRINT_BYTES} bytes"
        )
    head = [MAGIC, bytes([header.version]), CODEC.encode(header.codec), fingerprint]
    covered = b"".join([*head, *parts])
    return covered + header.checksums.header.of(covered)
