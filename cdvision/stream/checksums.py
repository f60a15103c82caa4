"""The checksums of a stream, by format version.

Version 1 closes the header with the low half of a CRC-32 and each layer with a whole one. Version
2, the compact form, closes both with a CRC-16 (polynomial 0x1021, initial value 0xFFFF, not
reflected: "CRC-16/IBM-3740"). Within 4,000 bytes that one finds every change of one or two bits, of
an odd number of bits, or of a run of up to 16 bits; of all other damage it misses one in 65,536.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdvision.stream.buffer import Buffer


@dataclass(frozen=True)
class Checksum:
    """The low ``size`` bytes of a sum, little-endian."""

    size: int
    compute: Callable[[Buffer], int]

    def of(self, data: Buffer) -> bytes:
        """Return the bytes that close ``data``.

        >>> CHECKSUMS[2].layer.of(b"123456789").hex()
        'b129'
        """
        low = self.compute(data) & (1 << 8 * self.size) - 1
        return low.to_bytes(self.size, "little")


@dataclass(frozen=True)
class Checksums:
    """What closes the header, and what closes each layer's body."""

    header: Checksum
    layer: Checksum


def crc16(data: Buffer) -> int:
    """Return the CRC-16/IBM-3740 of ``data``."""
    return binascii.crc_hqx(data, 0xFFFF)


CHECKSUMS: Mapping[int, Checksums] = {
    1: Checksums(header=Checksum(2, zlib.crc32), layer=Checksum(4, zlib.crc32)),
    2: Checksums(header=Checksum(2, crc16), layer=Checksum(2, crc16)),
}
