"""Round trip, truncation, damage and size of the container."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

PICTURE: dict[str, Any] = {
    "codec": 1,
    "fingerprint": b"\xc0\xff\xee\x01",
    "width": 640,
    "height": 480,
    "input_width": 416,
    "input_height": 312,
    "quality": 4,
}
LAYERS = (Layer(0, b"base"), Layer(3, b"edges"))
STREAM = write_stream(**PICTURE, layers=LAYERS)
HEADER_BYTES, END_0, END_1 = 23, 31, 40
# The example of docs/format.md. A released decoder reads this for ever: never change it.
GOLDEN = (
    "43445601 01 c0ffee01 8005 e003 34 27 04 02 0008 0309 25fd "
    "62617365 61feb4c0 6564676573 b50daabf"
)
UNLIMITED = StreamLimits(max_pixels=2**70)

number = st.integers(0, 2**32 - 1)
size = st.integers(1, 2**32 - 1)
input_size = size.map(lambda units: 8 * units)
layer = st.builds(Layer, number, st.binary(max_size=300))
layers = st.lists(layer, min_size=1, max_size=16, unique_by=lambda item: item.id)
fields = st.fixed_dictionaries(
    {
        "codec": number,
        "fingerprint": st.binary(min_size=4, max_size=4),
        "width": size,
        "height": size,
        "input_width": input_size,
        "input_height": input_size,
        "quality": st.integers(1, 255),
    }
)


@given(fields=fields, layers=layers)
def test_round_trip(fields: dict[str, Any], layers: list[Layer]) -> None:
    stream = write_stream(**fields, layers=layers)
    parsed = read_stream(stream, limits=UNLIMITED)
    table = tuple(LayerEntry(item.id, len(item.body) + 4) for item in layers)
    assert parsed.header == StreamHeader(**fields, layers=table, version=1)
    assert parsed.layers == tuple(layers)
    assert (parsed.complete, parsed.size) == (True, len(stream))


@given(fields=fields, layers=layers, data=st.data())
def test_truncation_keeps_the_first_layers(
    fields: dict[str, Any], layers: list[Layer], data: st.DataObject
) -> None:
    stream = write_stream(**fields, layers=layers)
    kept = data.draw(st.integers(1, len(layers)))
    prefix = truncate_stream(stream, kept, limits=UNLIMITED)
    assert stream.startswith(prefix)
    parsed = read_stream(prefix, limits=UNLIMITED)
    assert parsed.layers == tuple(layers[:kept])
    assert parsed.complete == (kept == len(layers))


def test_golden_bytes() -> None:
    assert bytes.fromhex(GOLDEN) == STREAM
    assert read_stream(bytes.fromhex(GOLDEN)).layers == LAYERS


def test_the_documented_example_is_the_golden_stream() -> None:
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    page = page.split("## Example\n")[1].split("\n## ")[0]
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `0x")]
    assert bytes.fromhex("".join(row[2].strip(" `") for row in rows)) == STREAM


@pytest.mark.parametrize("end", range(HEADER_BYTES, len(STREAM) + 1))
def test_truncation_at_every_byte(end: int) -> None:
    parsed = read_stream(STREAM[:end])
    assert parsed.layers == LAYERS[: (end >= END_0) + (end >= END_1)]
    assert parsed.complete == (end == END_1)
    assert parsed.size == end
    assert parsed.header == read_stream(STREAM).header


@pytest.mark.parametrize("bit", range(HEADER_BYTES * 8, len(STREAM) * 8))
def test_every_flipped_bit_of_a_layer_is_found(bit: int) -> None:
    damaged = bytearray(STREAM)
    damaged[bit // 8] ^= 1 << bit % 8
    index = int(bit // 8 >= END_0)
    with pytest.raises(BitstreamError) as caught:
        read_stream(damaged)
    name = f"layer {index} checksum (layer id {LAYERS[index].id})"
    assert (caught.value.field, caught.value.offset) == (name, (END_0, END_1)[index] - 4)
    dropped = read_stream(damaged, on_damage="drop")
    assert dropped.layers == LAYERS[:index]
    assert not dropped.complete


def test_damage_behind_a_cut_is_not_looked_at() -> None:
    damaged = STREAM[:END_0] + b"EDGES" + STREAM[END_0 + 5 :]
    assert read_stream(damaged[: END_1 - 1]).layers == LAYERS[:1]


@pytest.mark.parametrize("on_damage", ["raise", "drop"])
def test_bytes_behind_the_last_layer_are_an_error(on_damage: Any) -> None:
    with pytest.raises(BitstreamError, match="end of stream at byte 40: expected no byte, found 3"):
        read_stream(STREAM + b"abc", on_damage=on_damage)


def test_on_damage_takes_two_words_only() -> None:
    word: Any = "ignore"
    with pytest.raises(CdvisionError, match='must be "raise" or "drop", not \'ignore\''):
        read_stream(STREAM, on_damage=word)


@pytest.mark.parametrize("kept", [0, 3, -1])
def test_truncation_to_layers_that_are_not_there(kept: int) -> None:
    with pytest.raises(
        CdvisionError, match=f"cannot keep {kept} layers: this stream holds 2 whole"
    ):
        truncate_stream(STREAM, kept)


def test_truncation_of_a_cut_stream() -> None:
    assert truncate_stream(STREAM[:-1], 1) == STREAM[:END_0]
    with pytest.raises(CdvisionError, match="cannot keep 2 layers: this stream holds 1 whole"):
        truncate_stream(STREAM[:-1], 2)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_reads_alike(kind: Any) -> None:
    assert read_stream(kind(STREAM)) == read_stream(STREAM)
    assert isinstance(read_stream(kind(STREAM)).layers[0].body, bytes)
    assert truncate_stream(kind(STREAM), 1) == STREAM[:END_0]


@pytest.mark.parametrize(
    ("source", "body_bytes", "overhead"),
    [(127, 123, 23), (640, 4_000, 26), (16_383, 2_000_000, 27), (16_383, 2**21, 28)],
)
def test_overhead_of_one_layer(source: int, body_bytes: int, overhead: int) -> None:
    picture = {**PICTURE, "width": source, "height": source, "quality": 8}
    picture |= {"input_width": 1016, "input_height": 1016}
    stream = write_stream(**picture, layers=[Layer(0, bytes(body_bytes))])
    assert len(stream) - body_bytes == overhead <= 28
    assert read_stream(stream, limits=StreamLimits(max_pixels=2**28)).complete


def test_announced_sizes_allocate_nothing() -> None:
    body = bytes(2**25)
    stream = write_stream(**PICTURE, layers=[Layer(0, body), Layer(1, body)])[:1000]
    tracemalloc.start()
    try:
        assert read_stream(stream).layers == ()
        assert inspect(stream).layers[1].state == "missing"
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()


def test_the_package_needs_the_standard_library_only() -> None:
    code = (
        "import sys, cdvision.stream; "
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'numpy', 'onnxruntime', 'torch', 'PIL', 'click', 'tqdm'}))"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
