"""The compact header, format version 2: round trip, size, damage, one spelling, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvision.bench.mutations import EXTREME_VARINTS, UnsealedStream
from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import (
    Layer,
    LayerEntry,
    StreamHeader,
    StreamLimits,
    inspect,
    read_stream,
    truncate_stream,
    write_stream,
)
from cdvision.stream.checksums import CHECKSUMS, crc16
from cdvision.stream.compact import Form
from cdvision.stream.varint import encode_varint

FACE: dict[str, Any] = {
    "codec": 3,
    "fingerprint": b"\xc0\xff\xee\x01",
    "width": 178,
    "height": 218,
    "input_width": 128,
    "input_height": 128,
    "quality": 4,
}
CROP = {**FACE, "width": 128, "height": 128}
LAYERS = (Layer(0, b"base"), Layer(1, b"detail"))
STREAM = write_stream(**FACE, layers=LAYERS, compact=True)
FORM_AT, INPUT_AT, WIDTH_AT, HEIGHT_AT, LENGTHS_AT, CHECKSUM_AT, HEADER_BYTES = (
    9, 10, 11, 13, 15, 17, 19,
)  # fmt: skip
END_0, END_1 = 25, 33
# The second example of docs/format.md. A released decoder reads this for ever: never change it.
GOLDEN = "43445602 03 c0ffee01 4b 10 b201 da01 06 08 2aab 62617365 28fd 64657461696c 6555"
UNLIMITED = StreamLimits(max_pixels=2**70)

number, size = st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1)
input_size = st.integers(1, 2**29 - 1).map(lambda units: 8 * units)  # a source has it too
bodies = st.lists(st.binary(max_size=200), min_size=1, max_size=8)


@st.composite
def pictures(draw: st.DrawFn) -> dict[str, Any]:
    """Headers whose sizes agree, or do not, in every way that the form byte tells apart."""
    width = draw(input_size)
    height = draw(st.one_of(st.just(width), input_size))
    source = draw(st.one_of(st.just((width, height)), st.tuples(size, size)))
    return {
        "codec": draw(number),
        "fingerprint": draw(st.binary(min_size=4, max_size=4)),
        "width": source[0],
        "height": source[1],
        "input_width": width,
        "input_height": height,
        "quality": draw(st.integers(1, 8)),
    }


@given(fields=pictures(), bodies=bodies, data=st.data())
def test_round_trip_and_truncation(
    fields: dict[str, Any], bodies: list[bytes], data: st.DataObject
) -> None:
    layers = [Layer(k, body) for k, body in enumerate(bodies)]
    stream = write_stream(**fields, layers=layers, compact=True)
    parsed = read_stream(stream, limits=UNLIMITED)
    table = tuple(LayerEntry(item.id, len(item.body) + 2) for item in layers)
    assert parsed.header == StreamHeader(**fields, layers=table, version=2)
    assert (parsed.layers, parsed.complete) == (tuple(layers), True)
    kept = data.draw(st.integers(1, len(layers)))
    prefix = truncate_stream(stream, kept, limits=UNLIMITED)
    assert stream.startswith(prefix)
    assert read_stream(prefix, limits=UNLIMITED).layers == tuple(layers[:kept])
    assert UnsealedStream.of(stream).seal() == stream
    assert len(stream) <= len(write_stream(**fields, layers=layers)) - 4


def test_golden_bytes_are_the_documented_example() -> None:
    golden = bytes.fromhex(GOLDEN)
    assert golden == STREAM
    assert read_stream(golden).layers == LAYERS
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    example = page.split("## Example of the compact form")[1].split("\n## ")[0]
    rows = [line.split("|") for line in example.splitlines() if line.startswith("| `0x")]
    assert bytes.fromhex("".join(row[2].strip(" `") for row in rows)) == STREAM
    assert [int(row[1].strip(" `"), 16) for row in rows][-2:] == [END_0, END_1 - 2]


@pytest.mark.parametrize(
    ("picture", "sizes", "overhead"),
    [
        (CROP, [80], 16),
        (FACE, [125], 20),
        ({**FACE, "width": 16_383, "height": 16_383}, [125], 20),
        (CROP, [80, 60, 40], 22),
        (FACE, [80, 60, 40], 26),
        (FACE, [80, 300, 400], 28),
    ],
)
def test_overhead(picture: dict[str, Any], sizes: list[int], overhead: int) -> None:
    layers = [Layer(k, bytes(count)) for k, count in enumerate(sizes)]
    stream = write_stream(**picture, layers=layers, compact=True)
    assert len(stream) - sum(sizes) == overhead <= (20 if len(sizes) == 1 else 28)
    assert inspect(stream, limits=UNLIMITED).header_bytes == overhead - 2 * len(sizes)


@pytest.mark.parametrize("end", range(len(STREAM) + 1))
def test_truncation_at_every_byte(end: int) -> None:
    if end < HEADER_BYTES:
        with pytest.raises(BitstreamError, match="the header is cut"):
            read_stream(STREAM[:end])
        return
    parsed = read_stream(STREAM[:end])
    assert parsed.layers == LAYERS[: (end >= END_0) + (end >= END_1)]
    assert parsed.complete == (end == END_1)
    states = [layer.state for layer in inspect(STREAM[:end]).layers]
    assert [state == "ok" for state in states] == [end >= END_0, end >= END_1]


@pytest.mark.parametrize("bit", range(len(STREAM) * 8))
def test_every_flipped_bit_is_found(bit: int) -> None:
    damaged = bytearray(STREAM)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError) as caught:
        read_stream(damaged)
    if bit // 8 < HEADER_BYTES:
        return
    index = int(bit // 8 >= END_0)
    error, end = caught.value, (END_0, END_1)[index]
    assert (error.field, error.offset) == (f"layer {index} checksum (layer id {index})", end - 2)
    assert read_stream(damaged, on_damage="drop").layers == LAYERS[:index]
    assert inspect(damaged).layers[index].state == "damaged"


def test_the_checksum_is_the_catalogued_one_and_finds_what_it_promises() -> None:
    assert crc16(b"123456789") == 0x29B1
    body = bytearray(4000)
    whole = crc16(body)
    single = {crc16_of_flips(body, bit) for bit in range(8 * len(body))}
    assert len(single) == 8 * len(body)  # so no two flips cancel either
    assert whole not in single


def crc16_of_flips(body: bytearray, bit: int) -> int:
    body[bit // 8] ^= 1 << bit % 8
    checksum = crc16(body)
    body[bit // 8] ^= 1 << bit % 8
    return checksum


def patched(offset: int, size: int, value: bytes, stream: bytes = STREAM) -> bytes:
    """A stream with other bytes in one field of its header, and a checksum that fits them."""
    end = inspect(stream).header_bytes
    covered = stream[:offset] + value + stream[offset + size : end - 2]
    return covered + CHECKSUMS[2].header.of(covered) + stream[end:]


CROP_STREAM = write_stream(**CROP, layers=LAYERS, compact=True)


@pytest.mark.parametrize(
    ("data", "field", "offset", "expected", "found"),
    [
        (patched(INPUT_AT, 1, b"\x00"), "input_width", INPUT_AT, "a multiple of 8 from 8", "0"),
        (patched(WIDTH_AT, 2, b"\x00"), "width", WIDTH_AT, "from 1 to 4294967295", "0"),
        (patched(HEIGHT_AT, 2, b"\x85\x00"), "height", HEIGHT_AT, "the shortest varint", "2 bytes"),
        (patched(LENGTHS_AT, 1, b"\x01"), "layer 0 length", LENGTHS_AT, "from 2 to", "1"),
        (
            patched(WIDTH_AT, 4, encode_varint(128) * 2),
            "width", WIDTH_AT, "no value, or another than the network input's size", "128",
        ),
        (
            patched(FORM_AT, 2, b"\xcb\x10\x10"),
            "input_height", INPUT_AT + 1, "no value, or another than the input width", "128",
        ),
        (
            STREAM[:CHECKSUM_AT] + b"\0\0" + STREAM[HEADER_BYTES:],
            "header checksum", CHECKSUM_AT, "2aab", "0000",
        ),
    ],
)  # fmt: skip
def test_message_of_each_refusal(
    data: bytes, field: str, offset: int, expected: str, found: str
) -> None:
    for reader in (read_stream, inspect):
        with pytest.raises(BitstreamError) as caught:
            reader(data)
        error = caught.value
        assert (error.field, error.offset) == (field, offset)
        assert expected in str(error.expected)
        assert str(error.found).startswith(found)


@pytest.mark.parametrize(
    ("stream", "limits", "field", "offset"),
    [
        (STREAM, StreamLimits(max_pixels=178 * 218 - 1), "source size", WIDTH_AT),
        (CROP_STREAM, StreamLimits(max_pixels=128 * 128 - 1), "source size", INPUT_AT),
        (STREAM, StreamLimits(max_layers=1), "number of layers", FORM_AT),
        (STREAM, StreamLimits(max_layer_bytes=7), "layer 1 length", LENGTHS_AT + 1),
    ],
)
def test_limits(stream: bytes, limits: StreamLimits, field: str, offset: int) -> None:
    assert read_stream(stream, limits=StreamLimits(178 * 218, 2, 8)).complete
    with pytest.raises(BitstreamError) as caught:
        read_stream(stream, limits=limits)
    assert (caught.value.field, caught.value.offset) == (field, offset)


def test_a_bomb_is_refused() -> None:
    bomb = patched(WIDTH_AT, 4, encode_varint(2**32 - 1) * 2)
    with pytest.raises(BitstreamError, match="at most 67108864 pixels"):
        read_stream(bomb)


def test_every_form_byte_is_one_form() -> None:
    assert [Form.parsed(byte).byte() for byte in range(256)] == list(range(256))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quality": 9}, "cannot hold quality = 9: expected 1 to 8"),
        ({"quality": 0}, "cannot hold quality = 0: expected 1 to 8"),
        ({"quality": 1.5}, "cannot hold quality = 1.5: expected 1 to 8"),
        ({"width": 0}, "cannot hold width = 0"),
        ({"input_height": 12}, "cannot hold input_height = 12: expected a multiple of 8"),
        ({"fingerprint": b"abc"}, "expected 4 bytes"),
        ({"layers": []}, "cannot hold number of layers = 0: expected 1 to 8"),
        ({"layers": [Layer(1, b"")]}, r"cannot hold layer ids = \[1\]: expected 0, 1, 2"),
        ({"layers": [Layer(k, b"") for k in range(9)]}, "number of layers = 9"),
    ],
)
def test_writer_refuses_what_the_compact_form_cannot_hold(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CdvisionError, match=message):
        write_stream(**{**FACE, "layers": LAYERS, **change}, compact=True)


@given(data=st.binary(max_size=100))
def test_any_bytes_behind_the_magic(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        read_stream(b"CDV\x02" + data)


@pytest.mark.parametrize("varint", EXTREME_VARINTS)
@pytest.mark.parametrize("at", range(2, 10))
def test_every_extreme_varint_in_every_field(varint: bytes, at: int) -> None:
    stream = UnsealedStream.of(STREAM)
    stream.fields[min(at, len(stream.fields) - 1)] = varint
    try:
        bodies = [layer.body for layer in read_stream(stream.seal()).layers]
    except BitstreamError:
        return
    assert bodies in ([], stream.bodies)
