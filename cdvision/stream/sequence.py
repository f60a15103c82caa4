"""The ``.cdvs`` container: a header, packets one behind the other, an index at the end.

::

    +------+---------+---------+--------+--------+--------+-- --+-------+
    | CDVS | version | picture | CRC-16 | packet | packet | ... | index |
    +------+---------+---------+--------+--------+--------+-- --+-------+

    index   0xFF | keys (v) | frame, offset of each, as steps (v, v) | CRC-16 | length (u32) | CDVX

A packet tells its own length. The index lists the keys, for seeking; a file that was cut has none
and plays up to the cut. 0xFF begins no packet. Frames count from the first, and do not wrap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from cdvision.errors import BitstreamError
from cdvision.stream.checksums import Buffer, byte_view
from cdvision.stream.packets import (
    CHECKSUM,
    FRAMES,
    Packet,
    Picture,
    packet_at,
)
from cdvision.stream.parser import DEFAULT_LIMITS, StreamLimits
from cdvision.stream.varint import decode_varint, encode_varint

MAGIC, VERSION = b"CDVS", 1
INDEX_START, INDEX_END = 0xFF, b"CDVX"
TRAILER = 8  # the length of the index, and its last four bytes


class SequenceWriter:
    """Writes packets into a binary file; ``close`` adds the index."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._offset = file, 0
        self._keys: list[tuple[int, int]] = []
        self._frame = -1

    def write(self, data: Buffer) -> None:
        """Append one packet; the first has to be a key, whose picture becomes the header.

        Raises:
            BitstreamError: it is no packet, or a delta before any key.
        """
        view = byte_view(data)
        packet, _ = packet_at(view, 0)
        if self._offset == 0:
            if packet.picture is None:
                raise BitstreamError("first packet", expected="a key", found="a delta")
            self._put(sequence_header(packet.picture))
        self._frame = unwrapped(packet.frame, self._frame)
        if packet.is_key:
            self._keys.append((self._frame, self._offset))
        self._put(bytes(view))

    def close(self) -> None:
        """Write the index; the file stays open."""
        self._put(encode_index(self._keys))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._offset += len(data)


def sequence_header(picture: Picture) -> bytes:
    """Return the bytes in front of the first packet."""
    data = MAGIC + bytes([VERSION]) + picture.encode()
    return data + CHECKSUM.of(data)


def encode_index(keys: list[tuple[int, int]]) -> bytes:
    """Return the index of keys (frame, offset in the file)."""
    data, before = bytes([INDEX_START]) + encode_varint(len(keys)), (0, 0)
    for frame, offset in keys:
        data += encode_varint(frame - before[0]) + encode_varint(offset - before[1])
        before = frame, offset
    data += CHECKSUM.of(data)
    return data + len(data).to_bytes(4, "little") + INDEX_END


class SequenceReader:
    """Reads a sequence, whole or cut.

    Attributes:
        picture: of the first key: model, sizes and rate.
        complete: whether the index is there.

    Raises:
        BitstreamError: the header is cut, damaged or over a limit; from ``packets`` too.
    """

    def __init__(self, data: Buffer, *, limits: StreamLimits = DEFAULT_LIMITS) -> None:
        self._view, self._limits = byte_view(data), limits
        self.picture, self._first = _read_header(self._view, limits)
        index = _index_at(self._view, self._first)
        self._end = len(self._view) if index is None else index
        self.complete = index is not None

    def __iter__(self) -> Iterator[bytes]:
        """Yield each whole packet's bytes; a packet that is cut ends the sequence."""
        for offset, end, _ in self._spans():
            yield bytes(self._view[offset:end])

    def keys(self) -> list[tuple[int, int]]:
        """Return frame and offset of each key: from the index, or by looking at each packet.

        Raises:
            BitstreamError: the index is damaged.
        """
        if self.complete:
            return decode_index(self._view, self._end)
        found, frame = [], -1
        for offset, _, packet in self._spans():
            frame = unwrapped(packet.frame, frame)
            if packet.is_key:
                found.append((frame, offset))
        return found

    def _spans(self) -> Iterator[tuple[int, int, Packet]]:
        offset = self._first
        while offset < self._end and self._view[offset] != INDEX_START:
            if not self.complete and _is_cut(self._view, offset):
                return
            packet, end = packet_at(self._view[: self._end], offset, self._limits)
            yield offset, end, packet
            offset = end


def unwrapped(frame: int, last: int) -> int:
    """Return the first number from ``last`` + 1 on that is ``frame`` modulo 2^16."""
    return last + 1 + (frame - last - 1) % FRAMES


def decode_index(view: memoryview, start: int) -> list[tuple[int, int]]:
    """Return frame and offset of each key; raises BitstreamError."""
    end = len(view) - TRAILER - CHECKSUM.size
    stored, computed = bytes(view[end : end + 2]), CHECKSUM.of(view[start:end])
    if stored != computed:
        raise BitstreamError(
            "index checksum", offset=end, expected=computed.hex(), found=stored.hex()
        )
    count, offset = decode_varint(view, start + 1, "number of keys")
    keys, frame, place = [], 0, 0
    for _ in range(min(count, end)):
        step, offset = decode_varint(view[:end], offset, "key frame")
        further, offset = decode_varint(view[:end], offset, "key offset")
        frame, place = frame + step, place + further
        keys.append((frame, place))
    if offset != end:
        raise BitstreamError("index", offset=offset, expected=f"its end at {end}", found=offset)
    return keys


def _read_header(view: memoryview, limits: StreamLimits) -> tuple[Picture, int]:
    for field, at, expected in (("magic", 0, MAGIC), ("format version", 4, bytes([VERSION]))):
        found = bytes(view[at : at + len(expected)])
        if found != expected:
            raise BitstreamError(field, offset=at, expected=expected, found=found)
    picture, end = Picture.parsed(view, 5, limits)
    stored, computed = bytes(view[end : end + CHECKSUM.size]), CHECKSUM.of(view[:end])
    if stored != computed:
        raise BitstreamError(
            "header checksum", offset=end, expected=computed.hex(), found=stored.hex()
        )
    return picture, end + CHECKSUM.size


def _index_at(view: memoryview, first: int) -> int | None:
    """Return where the index begins, or None where the file was cut."""
    if bytes(view[-4:]) != INDEX_END or len(view) < first + TRAILER:
        return None
    length = int.from_bytes(view[-TRAILER:-4], "little")
    start = len(view) - TRAILER - length
    if length < 4 or start < first or view[start] != INDEX_START:
        return None
    return start


def _is_cut(view: memoryview, offset: int) -> bool:
    """Tell whether the data end before the packet at ``offset`` does."""
    at = offset + (4 if view[offset] & 16 else 3)
    try:
        length, first = decode_varint(view, at, "packet length")
    except BitstreamError:
        return len(view) - at < 5
    return first + length + CHECKSUM.size > len(view)
