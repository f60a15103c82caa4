"""Whatever the bytes, the container gives a result or a BitstreamError; and the fuzzer can fail."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvision.bench.fuzz import fuzz_streams
from cdvision.bench.mutations import EXTREME_VARINTS, MUTATIONS, UnsealedStream, mutate
from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream import Layer, inspect, read_stream, truncate_stream, write_stream

RNG = Random(5)
PICTURE: dict[str, Any] = {
    "codec": 1,
    "fingerprint": b"\xc0\xff\xee\x01",
    "width": 1920,
    "height": 1080,
    "input_width": 416,
    "input_height": 240,
    "quality": 4,
}
SEEDS = [
    write_stream(**PICTURE, layers=[Layer(i, RNG.randbytes(size)) for i, size in enumerate(sizes)])
    for sizes in ([0], [700], [300, 20], [40, 1, 500])
]
FACE = {**PICTURE, "codec": 3, "input_width": 128, "input_height": 128}
SEEDS += [
    write_stream(
        **{**FACE, "width": side, "height": side},
        layers=[Layer(i, RNG.randbytes(size)) for i, size in enumerate(sizes)],
        compact=True,
    )
    for side, sizes in ((128, [60]), (200, [40, 300, 90]))
]


def read_inspect_truncate(data: bytes) -> object:
    """Everything that the container offers for bytes of unknown origin."""
    inspect(data)
    parsed = read_stream(data)
    return [truncate_stream(data, kept + 1) for kept in range(len(parsed.layers))]


@given(data=st.binary(max_size=100))
def test_any_bytes_behind_the_magic(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        read_stream(data)
    with pytest.raises(BitstreamError):
        read_stream(b"CDV\x01" + data)


def test_some_thousand_mutants(tmp_path: Path) -> None:
    report = fuzz_streams(SEEDS, read_inspect_truncate, 5000, seed=1, folder=tmp_path / "fuzz")
    assert report.ok, str(report)
    assert set(report.mutations) == set(MUTATIONS)
    assert set(report.outcomes) == {"result", "BitstreamError"}
    assert report.outcomes["result"] > 1000
    assert report.outcomes["BitstreamError"] > 1000
    assert report.peak_item_bytes < 2**17
    assert not (tmp_path / "fuzz").exists()
    assert report.to_dict()["ok"] is True
    assert "5,000 streams" in str(report)


def test_mutants_reading_allocates_in_proportion_to_the_data() -> None:
    mutants = [mutate(SEEDS, 2, index)[1] for index in range(2000)]
    tracemalloc.start()
    try:
        for data in mutants:
            try:
                read_stream(data)
            except BitstreamError:
                continue
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_an_item_can_be_made_again_alone() -> None:
    assert mutate(SEEDS, 3, 77) == mutate(SEEDS, 3, 77)
    assert mutate(SEEDS, 3, 77) != mutate(SEEDS, 4, 77)


@pytest.mark.parametrize("stream", SEEDS)
def test_sealing_gives_the_stream_back(stream: bytes) -> None:
    assert UnsealedStream.of(stream).seal() == stream


@pytest.mark.parametrize("name", ["tamper_body", "tamper_body_start", "exchange_body"])
def test_sealed_mutants_reach_the_decoder(name: str) -> None:
    rng = Random(9)
    mutants = [MUTATIONS[name](rng, SEEDS) for _ in range(200)]
    assert all(read_stream(data).complete for data in mutants)
    assert len(set(mutants) - set(SEEDS)) > 20


@pytest.mark.parametrize("name", ["tamper_field", "tamper_varint"])
def test_tampered_fields_get_past_the_header_checksum(name: str) -> None:
    rng, fields = Random(9), set()
    for _ in range(2000):
        try:
            read_stream(MUTATIONS[name](rng, SEEDS))
        except BitstreamError as error:
            fields.add(error.field)
    assert {"format version", "width", "input_height", "quality", "number of layers"} <= fields


@pytest.mark.parametrize("varint", EXTREME_VARINTS)
@pytest.mark.parametrize("at", range(2, 12))
def test_every_extreme_varint_in_every_field(varint: bytes, at: int) -> None:
    stream = UnsealedStream.of(SEEDS[1])
    stream.fields[at] = varint
    try:
        bodies = [layer.body for layer in read_stream(stream.seal()).layers]
    except BitstreamError:
        return
    assert bodies in ([], stream.bodies)


def fail_on_every_fifth_byte_sum(data: bytes) -> None:
    if data not in SEEDS and sum(data) % 5 == 0:
        raise IndexError("list index out of range")


def test_the_fuzzer_keeps_what_breaks_the_promise(tmp_path: Path) -> None:
    report = fuzz_streams(SEEDS, fail_on_every_fifth_byte_sum, 50, seed=7, folder=tmp_path)
    assert not report.ok
    assert report.outcomes["IndexError"] == len(report.failures) > 0
    first = report.failures[0]
    assert first.reason == "IndexError: list index out of range"
    assert Path(first.path).read_bytes() == mutate(SEEDS, 7, first.index)[1]
    assert first.path in str(report)
    assert not (tmp_path / "in_flight.cdv").exists()


def test_the_fuzzer_stops_after_a_hundred_failures(tmp_path: Path) -> None:
    report = fuzz_streams(SEEDS, fail_on_every_fifth_byte_sum, 5000, folder=tmp_path)
    assert len(report.failures) == 100
    assert report.count == sum(report.outcomes.values()) < 5000


def test_the_fuzzer_sees_a_slow_item(tmp_path: Path) -> None:
    slow = mutate(SEEDS, 0, 1)[1]
    report = fuzz_streams(
        SEEDS, lambda data: time.sleep(1.01 if data == slow else 0), 2, folder=tmp_path
    )
    assert [failure.reason[:6] for failure in report.failures] == ["took 1"]
    assert report.slowest_index == 1


def test_the_fuzzer_sees_a_large_allocation(tmp_path: Path) -> None:
    bomb = mutate(SEEDS, 0, 0)[1]
    report = fuzz_streams(
        SEEDS, lambda data: bytes(2**28 + 1 if data == bomb else 0), 2, folder=tmp_path
    )
    assert [failure.reason for failure in report.failures] == ["allocated 256 MiB"]
    assert report.peak_item_bytes > 2**28


def test_an_interrupted_campaign_leaves_the_item_on_trial(tmp_path: Path) -> None:
    def interrupt(data: bytes) -> None:
        if data not in SEEDS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fuzz_streams(SEEDS, interrupt, 10, seed=3, folder=tmp_path)
    first = next(mutate(SEEDS, 3, i)[1] for i in range(10) if mutate(SEEDS, 3, i)[1] not in SEEDS)
    assert (tmp_path / "in_flight.cdv").read_bytes() == first


def test_the_fuzzer_wants_seeds_that_decode() -> None:
    with pytest.raises(CdvisionError, match="at least one valid stream"):
        fuzz_streams([], read_stream, 1)
    with pytest.raises(CdvisionError, match="seed stream 1 does not decode as it is: bad stream"):
        fuzz_streams([SEEDS[0], b"CDV"], read_stream, 1)
    with pytest.raises(CdvisionError, match="seed stream 0 is cut"):
        fuzz_streams([SEEDS[3][:-1]], read_stream, 1)
