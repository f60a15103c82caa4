"""Varints: whole numbers in one to five bytes, seven bits a byte, lowest bits first (LEB128).

::

    300 = 0b10_0101100   ->   1|0101100   0|0000010   =   ac 02
                              ^ more follows  ^ last byte

Every number has exactly one encoding, the shortest: a stream then has one spelling too, and
equal bytes mean equal content.
"""

from __future__ import annotations

from cdvision.errors import BitstreamError, CdvisionError

VARINT_MAX = 2**32 - 1
VARINT_BYTES = 5


def encode_varint(value: int) -> bytes:
    """Return the shortest varint of ``value``.

    >>> encode_varint(300).hex()
    'ac02'

    Raises:
        CdvisionError: ``value`` is not in 0 … 2**32 - 1.
    """
    if not 0 <= value <= VARINT_MAX:
        raise CdvisionError(f"a varint holds 0 to {VARINT_MAX}, not {value}")
    encoded = bytearray()
    while value > 0x7F:
        # Seven bits and a set top bit: more follows.
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(data: bytes | memoryview, offset: int, field: str) -> tuple[int, int]:
    """Read one varint at ``offset``; return its value and the offset behind it.

    >>> decode_varint(bytes.fromhex("ac02"), 0, "width")
    (300, 2)

    Raises:
        BitstreamError: the bytes end first, the number is over 32 bits, or it is padded with
            zero bits to more bytes than it needs. ``field`` names the number in the message.
    """
    encoded = bytes(data[offset : offset + VARINT_BYTES])
    value = 0
    for index, byte in enumerate(encoded):
        value |= (byte & 0x7F) << (7 * index)
        if byte >= 0x80:
            continue
        if value > VARINT_MAX:  # five bytes hold 35 bits
            expected = f"at most {VARINT_MAX}"
            raise BitstreamError(field, offset=offset, expected=expected, found=value)
        if index and byte == 0:
            expected = f"the shortest varint of {value}"
            found = f"{index + 1} bytes ({encoded[: index + 1].hex(' ')})"
            raise BitstreamError(field, offset=offset, expected=expected, found=found)
        return value, offset + index + 1
    found = f"{encoded.hex(' ')} and no end"
    if len(encoded) < VARINT_BYTES:
        found = f"{len(encoded)} bytes, then the end of the data (the header is cut)"
    raise BitstreamError(field, offset=offset, expected="a varint of 1 to 5 bytes", found=found)
