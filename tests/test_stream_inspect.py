"""``inspect`` tells what a stream holds from its header, whole, cut or damaged."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from cdvision.stream import Layer, inspect, write_stream

PICTURE: dict[str, Any] = {
    "codec": 1,
    "fingerprint": b"\xc0\xff\xee\x01",
    "width": 640,
    "height": 480,
    "input_width": 416,
    "input_height": 312,
    "quality": 4,
}
STREAM = write_stream(**PICTURE, layers=[Layer(0, b"base"), Layer(3, b"edges")])


def states(data: bytes) -> list[str]:
    return [layer.state for layer in inspect(data).layers]


def test_a_whole_stream() -> None:
    info = inspect(STREAM)
    assert (info.version, info.codec, info.fingerprint, info.quality) == (1, 1, "c0ffee01", 4)
    assert (info.width, info.height, info.input_width, info.input_height) == (640, 480, 416, 312)
    assert (info.size, info.header_bytes, info.trailing_bytes) == (40, 23, 0)
    assert [(x.id, x.offset, x.bytes, x.bytes_present) for x in info.layers] == [
        (0, 23, 8, 8),
        (3, 31, 9, 9),
    ]
    assert info.header_bytes + sum(layer.bytes for layer in info.layers) == info.size
    assert info.complete
    assert info.bits_per_pixel == 8 * 40 / (640 * 480)


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (23, ["missing", "missing"]),
        (24, ["cut", "missing"]),
        (30, ["cut", "missing"]),
        (31, ["ok", "missing"]),
        (39, ["ok", "cut"]),
        (40, ["ok", "ok"]),
    ],
)
def test_a_cut_stream(end: int, expected: list[str]) -> None:
    assert states(STREAM[:end]) == expected
    assert inspect(STREAM[:end]).complete == (end == 40)


def test_a_damaged_layer_is_shown_and_the_others_still_checked() -> None:
    assert states(STREAM[:23] + b"BASE" + STREAM[27:]) == ["damaged", "ok"]


def test_bytes_behind_the_last_layer_are_counted() -> None:
    info = inspect(STREAM + b"abc")
    assert (info.trailing_bytes, info.size, info.complete) == (3, 43, True)
    assert "trailing" in str(info)


def test_json_holds_all_that_the_table_shows() -> None:
    facts = json.loads(inspect(STREAM[:39]).to_json())
    assert facts == inspect(STREAM[:39]).to_dict()
    assert facts["layers"][1] == {
        "id": 3,
        "offset": 31,
        "bytes": 9,
        "bytes_present": 8,
        "state": "cut",
    }
    assert facts["complete"] is False
    assert facts["bits_per_pixel"] == pytest.approx(8 * 39 / 307200)


def test_table() -> None:
    assert str(inspect(STREAM[:39])).splitlines() == [
        "stream, format version 1, 39 bytes",
        "  source image   640 x 480",
        "  network input  416 x 312",
        "  codec, model   1, c0ffee01",
        "  quality        4",
        "  rate           0.0010 bits per source pixel",
        "  complete       no",
        "  part       id    offset     bytes   share  state",
        "  header                0        23   59.0%  ok",
        "  layer 0     0        23         8   20.5%  ok",
        "  layer 1     3        31         8   20.5%  cut, 8 of 9 bytes here",
    ]


def test_info_is_frozen() -> None:
    info: Any = inspect(STREAM)
    with pytest.raises(FrozenInstanceError):
        info.quality = 5
