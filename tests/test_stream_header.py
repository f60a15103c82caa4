"""A damaged, foreign or oversized header is refused, with a message that says what to do."""

from __future__ import annotations

import array
import pathlib
from typing import Any

import pytest

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import Layer, StreamLimits, inspect, read_stream, write_stream
from cdvision.stream.checksums import CHECKSUMS
from cdvision.stream.varint import encode_varint

PICTURE: dict[str, Any] = {
    "codec": 1,
    "fingerprint": b"\xc0\xff\xee\x01",
    "width": 640,
    "height": 480,
    "input_width": 416,
    "input_height": 312,
    "quality": 4,
}
LAYERS = [Layer(0, b"base"), Layer(3, b"edges")]
STREAM = write_stream(**PICTURE, layers=LAYERS)
header_checksum = CHECKSUMS[1].header.of
# Offsets of STREAM's fields, as docs/format.md lays them out.
VERSION, WIDTH, HEIGHT, INPUT_WIDTH, INPUT_HEIGHT, QUALITY = 3, 9, 11, 13, 14, 15
COUNT, LENGTH_0, ID_1, CHECKSUM, HEADER_BYTES = 16, 18, 19, 21, 23


def patched(offset: int, size: int, value: bytes) -> bytes:
    """STREAM with other bytes in one field of its header, and a checksum that fits them."""
    covered = STREAM[:offset] + value + STREAM[offset + size : CHECKSUM]
    return covered + header_checksum(covered) + STREAM[HEADER_BYTES:]


def refusal(data: bytes, limits: StreamLimits | None = None) -> BitstreamError:
    with pytest.raises(BitstreamError) as caught:
        read_stream(data, limits=limits or StreamLimits())
    with pytest.raises(BitstreamError):
        inspect(data, limits=limits or StreamLimits())
    return caught.value


@pytest.mark.parametrize("end", range(HEADER_BYTES))
def test_a_cut_header_is_an_error_that_says_so(end: int) -> None:
    error = refusal(STREAM[:end])
    assert "the header is cut" in str(error)
    assert error.offset is not None
    assert error.offset <= end


@pytest.mark.parametrize("bit", range(HEADER_BYTES * 8))
def test_every_flipped_bit_of_the_header_is_an_error(bit: int) -> None:
    data = bytearray(STREAM)
    data[bit // 8] ^= 1 << bit % 8
    refusal(bytes(data))


def test_two_byte_checksum_sees_every_single_flip_in_the_longest_header() -> None:
    layers = [Layer(2**32 - 1 - index, bytes(70_000)) for index in range(16)]
    stream = write_stream(**{**PICTURE, "codec": 2**32 - 1}, layers=layers)
    covered = stream[: inspect(stream).header_bytes - 2]
    for bit in range(len(covered) * 8):
        flipped = bytearray(covered)
        flipped[bit // 8] ^= 1 << bit % 8
        assert header_checksum(flipped) != header_checksum(covered)


@pytest.mark.parametrize(
    ("data", "field", "offset", "expected", "found"),
    [
        (b"JFIF" + STREAM[4:], "magic", 0, "b'CDV'", "b'JFI'"),
        (patched(VERSION, 1, b"\x03"), "format version", 3, "upgrade cdvision", "3"),
        (
            patched(VERSION, 1, b"\x00"),
            "format version",
            3,
            "1 or 2, which this release reads",
            "0",
        ),
        (patched(WIDTH, 2, b"\x00"), "width", 9, "from 1 to 4294967295", "0"),
        (patched(HEIGHT, 2, b"\x00"), "height", 11, "from 1 to 4294967295", "0"),
        (patched(INPUT_WIDTH, 1, b"\x00"), "input_width", 13, "a multiple of 8 from 8", "0"),
        (patched(INPUT_HEIGHT, 1, b"\x00"), "input_height", 14, "a multiple of 8 from 8", "0"),
        (patched(QUALITY, 1, b"\x00"), "quality", 15, "from 1 to 255", "0"),
        (patched(QUALITY, 1, encode_varint(256)), "quality", 15, "from 1 to 255", "256"),
        (patched(QUALITY, 1, b"\x84\x00"), "quality", 15, "the shortest varint of 4", "2 bytes"),
        (patched(COUNT, 5, b"\x00"), "number of layers", 16, "from 1 to", "0"),
        (patched(COUNT, 1, b"\x11"), "number of layers", 16, "StreamLimits.max_layers", "17"),
        (patched(LENGTH_0, 1, b"\x03"), "layer 0 length", 18, "from 4 to", "3"),
        (patched(ID_1, 1, b"\x00"), "layer 1 id", 19, "an id not used before", "0"),
        (patched(CHECKSUM, 0, b"")[:21] + b"\0\0", "header checksum", 21, "25fd", "0000"),
    ],
)
def test_message_of_each_refusal(
    data: bytes, field: str, offset: int, expected: str, found: str
) -> None:
    error = refusal(data)
    assert (error.field, error.offset) == (field, offset)
    assert expected in str(error.expected)
    assert str(error.found).startswith(found)
    assert str(error).startswith(f"bad stream: {field} at byte {offset}: expected ")


def test_pixel_limit_holds_for_the_source_and_for_the_network_input() -> None:
    limits = StreamLimits(max_pixels=640 * 480)
    assert read_stream(STREAM, limits=limits).complete
    source = refusal(STREAM, StreamLimits(max_pixels=640 * 480 - 1))
    assert (source.field, source.offset, source.found) == (
        "source size",
        WIDTH,
        "640 x 480 = 307200",
    )
    network = refusal(patched(INPUT_WIDTH, 1, encode_varint(1000)), limits)
    assert (network.field, network.offset) == ("network-input size", INPUT_WIDTH)
    assert network.found == "8000 x 312 = 2496000"
    assert "StreamLimits.max_pixels" in str(network)


def test_default_pixel_limit_refuses_a_decompression_bomb() -> None:
    bomb = patched(WIDTH, 4, encode_varint(2**32 - 1) * 2)
    assert "at most 67108864 pixels" in str(refusal(bomb))


def test_layer_limits() -> None:
    assert read_stream(STREAM, limits=StreamLimits(max_layers=2, max_layer_bytes=9)).complete
    assert refusal(STREAM, StreamLimits(max_layers=1)).field == "number of layers"
    error = refusal(STREAM, StreamLimits(max_layer_bytes=8))
    assert (error.field, error.found) == ("layer 1 length", 9)
    assert "at most 8 bytes (StreamLimits.max_layer_bytes)" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "cannot hold width = 0: expected a whole number from 1 to 4294967295"),
        ({"height": 2**32}, "cannot hold height = 4294967296: expected a whole number from 1"),
        ({"width": 1.5}, "cannot hold width = 1.5: expected a whole number"),
        ({"input_width": 420}, "cannot hold input_width = 420: expected a multiple of 8 from 8"),
        ({"input_height": 0}, "cannot hold input_height = 0: expected a multiple of 8 from 8"),
        ({"quality": 0}, "cannot hold quality = 0: expected a whole number from 1 to 255"),
        ({"quality": 256}, "cannot hold quality = 256: expected a whole number from 1 to 255"),
        ({"codec": -1}, "cannot hold codec = -1: expected a whole number from 0"),
        ({"fingerprint": b"abc"}, "cannot hold fingerprint = b'abc': expected 4 bytes"),
        ({"fingerprint": "abcd"}, "cannot hold fingerprint = 'abcd': expected 4 bytes"),
        ({"layers": []}, "cannot hold number of layers = 0: expected a whole number from 1"),
        ({"layers": [Layer(7, b""), Layer(7, b"")]}, "two layers with one id: found ids [7, 7]"),
        ({"layers": [Layer(-1, b"")]}, "cannot hold layer 0 id = -1"),
    ],
)
def test_writer_refuses_what_a_stream_cannot_hold(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CdvisionError) as caught:
        write_stream(**{**PICTURE, "layers": LAYERS, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("street.cdv", "not str"),
        (pathlib.Path("street.cdv"), "not PosixPath"),
        (None, "not NoneType"),
        ([67, 68, 86], "not list"),
        (array.array("f", [1.0]), "not array of shape (1,) and element type 'f'"),
        (memoryview(STREAM)[::2], "not memoryview of shape (20,) and element type 'B'"),
    ],
)
def test_what_is_not_bytes_is_a_type_error_that_tells_the_way(data: Any, found: str) -> None:
    for reader in (read_stream, inspect):
        with pytest.raises(TypeError) as caught:
            reader(data)
        message = str(caught.value)
        assert found in message
        assert "read_bytes()" in message
        assert "cdvision inspect FILE" in message
        assert "\n" not in message


def test_an_image_array_is_refused_and_a_flat_uint8_array_is_read() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match=r"not ndarray of shape \(4, 4, 3\)"):
        read_stream(numpy.zeros((4, 4, 3), numpy.uint8))
    with pytest.raises(TypeError, match="element type 'l'"):
        read_stream(numpy.zeros(40, numpy.int64))
    flat: Any = numpy.frombuffer(STREAM, numpy.uint8)
    assert read_stream(flat) == read_stream(STREAM)
