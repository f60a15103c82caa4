"""The bytes of a stream: what may be passed as one, and what closes its parts.

Version 1 closes the header with the low half of a CRC-32 and each layer with a whole one. Version
2, the compact form, closes both with a CRC-16 (polynomial 0x1021, initial value 0xFFFF, not
reflected: "CRC-16/IBM-3740"). Within 4,000 bytes that one finds every change of one or two bits, of
an odd number of bits, or of a run of up to 16 bits; of all other damage it misses one in 65,536.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


def byte_view(data: Buffer) -> memoryview:
    """Return a flat view of ``data``, without a copy.

    Raises:
        TypeError: ``data`` is a path, text, an image array, or anything else that is not a flat
            run of bytes. Guessing here would hash a file name or decode somebody's pixels.
    """
    found = type(data).__name__
    try:
        view = memoryview(data)
        if view.ndim == 1 and view.format in ("B", "b", "c") and view.c_contiguous:
            return view.cast("B")
        found += f" of shape {view.shape} and element type {view.format!r}"
    except TypeError:
        pass
    raise TypeError(
        f"a stream is bytes (or bytearray, memoryview, flat uint8), not {found}; "
        "read a file first: pathlib.Path(path).read_bytes(), "
        "or use the command line: cdvision inspect FILE"
    )


class Checksum(NamedTuple):
    """The low ``size`` bytes of a sum, little-endian."""

    size: int
    compute: Callable[[Buffer], int]

    def of(self, data: Buffer) -> bytes:
        """Return the bytes that close ``data``.

        >>> CHECKSUMS[2].layer.of(b"123456789").hex()
        'b129'
        """
        # The mask keeps the low 8 * size bits: `-` binds tighter than `&`.
        low = self.compute(data) & (1 << 8 * self.size) - 1
        return low.to_bytes(self.size, "little")


class Checksums(NamedTuple):
    """What closes the header, and what closes each layer's body."""

    header: Checksum
    layer: Checksum


def crc16(data: Buffer) -> int:
    """Return the CRC-16/IBM-3740 of ``data``."""
    # From 0xFFFF and not from 0, so that zeros in front of the data change the sum too.
    return binascii.crc_hqx(data, 0xFFFF)


CHECKSUMS: Mapping[int, Checksums] = {
    1: Checksums(header=Checksum(2, zlib.crc32), layer=Checksum(4, zlib.crc32)),
    2: Checksums(header=Checksum(2, crc16), layer=Checksum(2, crc16)),
}
