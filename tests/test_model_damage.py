"""What a model makes of damaged and hostile streams: one clear error, or finite answers."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cdvision
from cdvision.bench.fuzz import fuzz_streams
from cdvision.bench.mutations import UnsealedStream
from cdvision.errors import (
    BitstreamError,
)
from cdvision.stream import StreamLimits, read_stream
from cdvision.stream.varint import encode_varint
from cdvision.stream_answers import Stream

INPUT_WIDTH_AT, LAYER_ID_AT = 6, 10  # of the first layer; two fields a layer


def latents_or_refusal(model: cdvision.Model, bits: bytes) -> str:
    try:
        stream = model.open(bits)
        stream.latents()
    except BitstreamError as error:
        return error.field
    return "latents"


def test_truncation_at_every_byte(model: cdvision.Model, small_stream: bytes) -> None:
    lengths = range(len(small_stream))
    found = [latents_or_refusal(model, small_stream[:length]) for length in lengths]
    first = found.index("latents")  # from there on, the descriptor is whole
    assert first < 0.5 * len(small_stream)
    assert set(found[:first]) >= {"layer"}  # a cut stream opens: its header is whole
    assert set(found[first:]) == {"latents"}
    cut, whole = model.open(small_stream[:-1]), model.open(small_stream)
    assert not cut.complete
    assert cut.source_size == whole.source_size
    assert list(cut.latents()) == ["descriptor"]
    assert cut.classify().to_json() == whole.classify().to_json()
    with pytest.raises(BitstreamError, match=r"layer: expected layer 1, .*found 0: the stream was"):
        cut.detect()
    nothing = model.open(small_stream[: first - 1])
    for ask in (Stream.latents, Stream.classify):
        with pytest.raises(BitstreamError, match="the stream was cut"):
            ask(nothing)


def test_some_thousand_mutants(
    model: cdvision.Model, photos: list[Path], small_stream: bytes, tmp_path: Path
) -> None:
    seeds = [small_stream, model.encode(photos[0], 1, size=64), model.encode(photos[2], 8, size=64)]
    report = fuzz_streams(
        seeds, lambda bits: model.open(bits).latents(), 3000, seed=2, folder=tmp_path / "fuzz"
    )
    assert report.ok, str(report)
    assert set(report.outcomes) == {"result", "BitstreamError"}
    assert report.outcomes["result"] > 100
    assert report.slowest_seconds < 1


LARGEST = 2**20 - 1


@pytest.mark.parametrize("quality", [1, 8])
@pytest.mark.parametrize(
    ("low", "high"), [(LARGEST, LARGEST), (-LARGEST, -LARGEST), (-LARGEST, LARGEST)]
)
def test_the_wildest_latents_give_finite_answers(
    model: cdvision.Model, small_stream: bytes, low: int, high: int, quality: int
) -> None:
    """A forger can write a perfect stream of any latents: the networks must bear them."""
    coder, rng = model.package.coder, np.random.default_rng(3)
    shapes, bounds = model.card.latent_shapes((96, 96)), coder.ranges()
    assert bounds["symbols"] == (-LARGEST, LARGEST)
    latents = {
        "descriptor": np.full(shapes["descriptor"], low if quality == 1 else high, np.int32),
        "symbols": rng.integers(low, high + 1, shapes["symbols"], np.int32),
        "hyper": rng.integers(
            bounds["hyper"][0], bounds["hyper"][1] + 1, shapes["hyper"], np.int32
        ),
    }
    forged = UnsealedStream.of(small_stream)
    forged.fields[4:9] = [encode_varint(n) for n in (90, 90, 96 // 8, 96 // 8, quality)]
    for place, body in coder.encode(latents, quality - 1).items():
        forged.replace_body(place, body)
    stream = model.open(forged.seal())
    assert np.abs(stream.latents()["symbols"]).max() > 2**18
    boxes = stream.detect(confidence=0.01)
    assert np.isfinite(boxes.xyxy).all()
    assert boxes.xyxy.max(initial=0) <= 90
    assert np.isfinite(stream.classify().probability).all()


HUGE = encode_varint(2**24 // 8)


@pytest.mark.parametrize(
    "fields",
    [
        {INPUT_WIDTH_AT: HUGE},
        {INPUT_WIDTH_AT + 1: HUGE},
        {INPUT_WIDTH_AT: encode_varint(1536 // 8 + 4), INPUT_WIDTH_AT + 1: encode_varint(1)},
        {INPUT_WIDTH_AT: encode_varint(8192 // 8), INPUT_WIDTH_AT + 1: encode_varint(8192 // 8)},
        {INPUT_WIDTH_AT: encode_varint(1), INPUT_WIDTH_AT + 1: encode_varint(1)},
        {INPUT_WIDTH_AT: encode_varint(13)},
        {4: encode_varint(8192), 5: encode_varint(8192)},
        {4: encode_varint(2**26), 5: encode_varint(1)},
    ],
    ids=str,
)
def test_hostile_headers_are_refused_before_they_cost_anything(
    model: cdvision.Model, small_stream: bytes, fields: dict[int, bytes]
) -> None:
    hostile = UnsealedStream.of(small_stream)
    for at, value in fields.items():
        hostile.fields[at] = value
    bits = hostile.seal()
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError, match="network-input size"):
            model.open(bits)
        assert tracemalloc.get_traced_memory()[1] < 2**17
    finally:
        tracemalloc.stop()


def test_the_largest_input_that_a_header_can_claim_is_bounded(
    model: cdvision.Model, small_stream: bytes
) -> None:
    """A few bytes that claim 1536 x 1536 cost what its latents take, and no more."""
    hostile = UnsealedStream.of(small_stream)
    hostile.fields[4:8] = [encode_varint(n) for n in (8000, 8000, 1536 // 8, 1536 // 8)]
    bits = hostile.seal()
    tracemalloc.start()
    try:
        with pytest.raises(BitstreamError):
            model.open(bits).latents()
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_limits_are_the_callers(small_stream: bytes) -> None:
    model = cdvision.load("small", limits=StreamLimits(max_pixels=1000))
    with pytest.raises(BitstreamError, match="at most 1000 pixels"):
        model.open(small_stream)


def test_a_stream_of_unknown_layers(model: cdvision.Model, small_stream: bytes) -> None:
    other = UnsealedStream.of(small_stream)
    for place, number in enumerate((3, 4)):
        other.fields[LAYER_ID_AT + 2 * place] = encode_varint(number)
    stream = model.open(other.seal())
    assert stream.complete
    with pytest.raises(
        BitstreamError, match="layer: expected layer 0 or layer 1, found 3, 4: the stream was cut"
    ):
        stream.latents()


def test_all_bytes_are_counted(model: cdvision.Model, small_stream: bytes) -> None:
    layers = read_stream(small_stream).layers
    assert len(small_stream) - sum(len(layer.body) for layer in layers) <= 28 + 7
