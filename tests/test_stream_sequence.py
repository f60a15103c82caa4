"""Packets and the .cdvs container: framing, every cut, every damaged byte."""

from __future__ import annotations

import io

import pytest
from moving_scene import packets

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import StreamLimits
from cdvision.stream.packets import Packet, Picture, read_packet, write_packet
from cdvision.stream.sequence import SequenceReader, SequenceWriter, unwrapped

PICTURE = Picture(b"demo", 416, 256, 640, 360, 5000)


def a_file() -> bytes:
    file = io.BytesIO()
    writer = SequenceWriter(file)
    for packet in packets():
        writer.write(packet)
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize(
    ("packet", "framing"),
    [
        (Packet(65535, 8, b"x" * 127, distance=1), 6),
        (Packet(0, 1, b"x" * 16383, distance=1), 7),
        (Packet(3, 4, b"x" * 90, distance=255), 7),
        (Packet(3, 4, b"x" * 600, PICTURE), 7 + len(PICTURE.encode())),
    ],
)
def test_packets_come_back_and_framing_is_small(packet: Packet, framing: int) -> None:
    data = write_packet(packet)
    assert read_packet(data) == packet
    assert len(data) - len(packet.body) == framing


@pytest.mark.parametrize(
    "packet",
    [
        Packet(65536, 4, b"", distance=1),
        Packet(0, 9, b"", distance=1),
        Packet(0, 4, b"", distance=0),
        Packet(0, 4, b"", distance=256),
    ],
)
def test_what_no_packet_holds_is_refused(packet: Packet) -> None:
    with pytest.raises(CdvisionError, match="packet"):
        write_packet(packet)


def test_every_cut_and_every_flipped_bit_of_a_packet_is_refused() -> None:
    for data in (packets()[0], packets()[1], packets()[-1]):
        for place in range(len(data)):
            with pytest.raises(BitstreamError):
                read_packet(data[:place])
            for bit in range(8):
                damaged = bytearray(data)
                damaged[place] ^= 1 << bit
                with pytest.raises(BitstreamError):
                    read_packet(damaged)


def test_an_error_says_where_and_what() -> None:
    damaged = bytearray(packets()[1])
    damaged[-1] ^= 1
    with pytest.raises(BitstreamError) as caught:
        read_packet(damaged)
    error = caught.value
    assert (error.field, error.offset) == ("packet checksum", len(damaged) - 2)
    assert error.expected != error.found


def test_sizes_over_the_limits_are_refused() -> None:
    data = write_packet(Packet(0, 4, b"", PICTURE))
    with pytest.raises(BitstreamError, match="StreamLimits"):
        read_packet(data, limits=StreamLimits(max_pixels=1000))
    with pytest.raises(BitstreamError, match="StreamLimits"):
        read_packet(data, limits=StreamLimits(max_layer_bytes=3))


def test_a_file_gives_its_packets_and_keys() -> None:
    reader = SequenceReader(a_file())
    assert reader.complete
    assert list(reader) == list(packets())
    assert [frame for frame, _ in reader.keys()] == [0, 8]
    for (_, offset), key in zip(reader.keys(), (packets()[0], packets()[8]), strict=True):
        assert a_file()[offset : offset + len(key)] == key


def test_a_file_that_is_cut_anywhere_plays_up_to_the_cut() -> None:
    data, sent = a_file(), list(packets())
    first = data.index(sent[0])
    ends = [first + sum(map(len, sent[: n + 1])) for n in range(len(sent))]
    for cut in range(len(data)):
        if cut < first:
            with pytest.raises(BitstreamError):
                SequenceReader(data[:cut])
            continue
        reader = SequenceReader(data[:cut])
        whole = sum(end <= cut for end in ends)
        assert list(reader) == sent[:whole]
        assert len(reader.keys()) == (whole > 0) + (whole > 8)
        assert not reader.complete


def test_a_damaged_byte_of_a_file_gives_packets_or_an_error() -> None:
    data = a_file()
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        try:
            reader = SequenceReader(damaged)
            reader.keys()
            assert set(reader) <= set(packets())
        except BitstreamError:
            continue


def test_a_sequence_begins_with_a_key() -> None:
    with pytest.raises(BitstreamError, match="first packet"):
        SequenceWriter(io.BytesIO()).write(packets()[1])


@pytest.mark.parametrize(
    ("frame", "last", "expected"), [(0, -1, 0), (5, -1, 5), (0, 65535, 65536), (2, 65539, 131074)]
)
def test_frame_numbers_go_on_after_65535(frame: int, last: int, expected: int) -> None:
    assert unwrapped(frame, last) == expected
