"""Packets: one frame of a sequence each, framed in five to seven bytes (``docs/video.md``).

::

    bytes   1      2       0 or 1     v                      2
          +------+-------+----------+--------+------------+--------+
          | head | frame | distance | length | body       | CRC-16 |       v: varint
          +------+-------+----------+--------+------------+--------+

The head holds quality - 1 in bits 0 to 2, bit 3 set in a key, and bit 4 where a distance follows;
bits 5 to 7 are zero. Frames are numbered modulo 2^16. A delta refers to the frame before its own
unless a distance (2 to 255) says another. The checksum covers everything before it. A key's body
begins with what a receiver has to know to join:

::

            4             v         v         v       v        v
          +-------------+---------+---------+-------+--------+------+-----------+
          | fingerprint | input   | input   | width | height | rate | map layer |
          |             | width/8 | ht./8   |    (source)    |      |           |
          +-------------+---------+---------+-------+--------+------+-----------+

The fingerprint is the sequence's: it covers the entropy tables of keys and of deltas. The rate is
in frames a thousand seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream.checksums import CHECKSUMS, Buffer, byte_view
from cdvision.stream.header import FINGERPRINT_BYTES, PICTURE, NumberField
from cdvision.stream.parser import DEFAULT_LIMITS, StreamLimits
from cdvision.stream.varint import decode_varint, encode_varint

FRAMES = 1 << 16  # frame numbers wrap here
MAX_DISTANCE = 255
QUALITIES = 8
KEY, FAR, UNUSED = 1 << 3, 1 << 4, 0xE0
CHECKSUM = CHECKSUMS[2].layer
WIDTH, HEIGHT, INPUT_WIDTH, INPUT_HEIGHT = PICTURE[:4]
RATE = NumberField("rate", low=1, high=10**6)
FIELDS = (INPUT_WIDTH, INPUT_HEIGHT, WIDTH, HEIGHT, RATE)


@dataclass(frozen=True)
class Picture:
    """What every key tells: model, sizes in pixels, frames a thousand seconds."""

    fingerprint: bytes  # the first four bytes of the sequence's
    input_width: int
    input_height: int
    width: int
    height: int
    rate: int

    def encode(self) -> bytes:
        """Return the bytes in front of a key's map layer; raises CdvisionError."""
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise CdvisionError(f"fingerprint: expected {FINGERPRINT_BYTES} bytes")
        return self.fingerprint + b"".join(f.encode(getattr(self, f.name)) for f in FIELDS)

    @classmethod
    def parsed(
        cls, data: memoryview, offset: int, limits: StreamLimits = DEFAULT_LIMITS
    ) -> tuple[Picture, int]:
        """Read a picture at ``offset``; return it and the offset behind it.

        Raises:
            BitstreamError: a number is cut or out of range, or a size is over the limits.
        """
        fingerprint = bytes(data[offset : offset + FINGERPRINT_BYTES])
        if len(fingerprint) < FINGERPRINT_BYTES:
            raise BitstreamError(
                "fingerprint", offset=offset, expected="4 bytes", found=f"{len(fingerprint)}"
            )
        start, offset = offset, offset + FINGERPRINT_BYTES
        values: dict[str, int] = {}
        for field in FIELDS:
            stored, behind = decode_varint(data, offset, field.name)
            if not field.low <= stored <= field.high:
                found = stored * field.unit
                raise BitstreamError(field.name, offset=offset, expected=field.domain, found=found)
            values[field.name], offset = stored * field.unit, behind
        picture = cls(fingerprint, **values)
        picture.check_limits(start, limits)
        return picture, offset

    def check_limits(self, offset: int, limits: StreamLimits) -> None:
        """Refuse sizes over the limits; raises BitstreamError."""
        pixels = max(self.width * self.height, self.input_width * self.input_height)
        if pixels > limits.max_pixels:
            expected = f"at most {limits.max_pixels} pixels (StreamLimits.max_pixels)"
            raise BitstreamError("sizes", offset=offset, expected=expected, found=pixels)


@dataclass(frozen=True)
class Packet:
    """A packet taken apart; ``body`` is the map layer of a key, or a delta's change."""

    frame: int  # modulo 2^16
    quality: int  # 1 to 8
    body: bytes
    picture: Picture | None = None  # of a key
    distance: int = 0  # of a delta: frames back to its reference, 1 to 255

    @property
    def is_key(self) -> bool:
        """Whether it stands alone."""
        return self.picture is not None


def write_packet(packet: Packet) -> bytes:
    """Return a packet's bytes.

    >>> write_packet(Packet(frame=7, quality=4, body=b"", distance=1)).hex()
    '030700008c9a'

    Raises:
        CdvisionError: a value does not fit its field.
    """
    _check_fits(packet)
    head, body, distance = packet.quality - 1, packet.body, b""
    if packet.picture is not None:
        head, body = head | KEY, packet.picture.encode() + body
    elif packet.distance > 1:
        head, distance = head | FAR, bytes([packet.distance])
    number = packet.frame.to_bytes(2, "little")
    data = bytes([head]) + number + distance + encode_varint(len(body)) + body
    return data + CHECKSUM.of(data)


def _check_fits(packet: Packet) -> None:
    for name, low, value, high in (
        ("frame", 0, packet.frame, FRAMES - 1),
        ("quality", 1, packet.quality, QUALITIES),
        ("distance", 0 if packet.is_key else 1, packet.distance, 0 if packet.is_key else 255),
    ):
        if not low <= value <= high:
            raise CdvisionError(f"packet: {name}: expected {low} to {high}, found {value}")


def read_packet(data: Buffer, *, limits: StreamLimits = DEFAULT_LIMITS) -> Packet:
    """Take one packet apart.

    Raises:
        BitstreamError: it is cut, damaged or over a limit, or bytes follow it.
        TypeError: ``data`` is not bytes.
    """
    view = byte_view(data)
    packet, end = packet_at(view, 0, limits)
    if end < len(view):
        found = f"{len(view) - end} more"
        raise BitstreamError("end of packet", offset=end, expected="no byte", found=found)
    return packet


def packet_at(
    view: memoryview, offset: int, limits: StreamLimits = DEFAULT_LIMITS
) -> tuple[Packet, int]:
    """Read the packet that begins at ``offset``; return it and the offset behind it."""
    start, head = offset, _taken(view, offset, 1, "packet head")[0]
    if head & UNUSED or (head & KEY and head & FAR):
        raise BitstreamError("packet head", offset=start, expected="a key's or delta's", found=head)
    frame = int.from_bytes(_taken(view, start + 1, 2, "frame"), "little")
    offset, distance = start + 3, 0 if head & KEY else 1
    if head & FAR:
        distance = _taken(view, offset, 1, "distance")[0]
        offset += 1
    body, end = _checked_body(view, start, offset, limits)
    if head & FAR and distance < 2:
        raise BitstreamError("distance", offset=start + 3, expected="2 to 255", found=distance)
    quality, picture, at = (head & 7) + 1, None, 0
    if head & KEY:
        picture, at = Picture.parsed(body, 0, limits)
    return Packet(frame, quality, bytes(body[at:]), picture, distance), end


def _checked_body(
    view: memoryview, start: int, offset: int, limits: StreamLimits
) -> tuple[memoryview, int]:
    """Return the body whose length is at ``offset``, and the offset behind its checksum."""
    length, first = decode_varint(view, offset, "packet length")
    if length > limits.max_layer_bytes:
        expected = f"at most {limits.max_layer_bytes} bytes (StreamLimits.max_layer_bytes)"
        raise BitstreamError("packet length", offset=offset, expected=expected, found=length)
    end = first + length
    stored = _taken(view, end, CHECKSUM.size, "packet checksum")
    computed = CHECKSUM.of(view[start:end])
    if stored != computed:
        raise BitstreamError(
            "packet checksum", offset=end, expected=computed.hex(), found=stored.hex()
        )
    return view[first:end], end + CHECKSUM.size


def _taken(view: memoryview, offset: int, size: int, field: str) -> bytes:
    taken = bytes(view[offset : offset + size])
    if len(taken) < size:
        found = f"{len(taken)}, then the end of the data (the packet is cut)"
        raise BitstreamError(field, offset=offset, expected=f"{size} bytes", found=found)
    return taken
