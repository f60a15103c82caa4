"""C's container and codec beside Python's: the same fields, faults, bytes and latents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_streams import Accepted, NativeCodec, Refused, accepted, native_parse, native_write

import cdvision
from cdvision.bench.mutations import EXTREME_VARINTS, UnsealedStream, mutate
from cdvision.core.library import LIBRARY
from cdvision.errors import BitstreamError, CdvisionError
from cdvision.export.core_codec import codec_bytes
from cdvision.stream import Layer, read_stream, write_stream
from cdvision.stream.checksums import CHECKSUMS
from cdvision.stream.parser import decode_header

TESTS = Path(__file__).parent
RECORDS = json.loads((TESTS / "golden" / "golden.json").read_text(encoding="utf-8"))
GOLDEN = {record["stream"]: record["model"] for record in RECORDS}
# One of each kind of header: layers, sizes that are left out, versions.
KINDS = ("cat-q4.cdv", "astronaut-q1-compact.cdv", "hsc-q8.cdv", "test-sfic-style-q8.cdv")
OK, ARGUMENT, DAMAGED = 0, 13, 11


def golden(name: str) -> bytes:
    return (TESTS / "golden" / name).read_bytes()


def python_parse(data: bytes) -> Accepted | Refused:
    try:
        parsed = read_stream(data)
    except BitstreamError as error:
        return Refused(error.offset, error.field)
    return accepted(parsed.header, parsed.layers)


def header_bytes(data: bytes) -> int:
    return decode_header(memoryview(data))[1]


@pytest.mark.parametrize("name", GOLDEN)
def test_whole_and_cut_streams(name: str) -> None:
    bits = golden(name)
    assert isinstance(native_parse(bits), Accepted)
    for end in range(len(bits) + 1):
        assert native_parse(bits[:end]) == python_parse(bits[:end]), end
    assert native_parse(bits + b"\0") == python_parse(bits + b"\0")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "checksum fits"])
def test_every_change_of_one_byte_of_a_header(name: str, sealed: bool) -> None:
    bits = golden(name)
    size = header_bytes(bits)
    for place in range(size - 2 * sealed):
        for value in range(256):
            spoiled = bytearray(bits)
            spoiled[place] = value
            if sealed:
                checksum = CHECKSUMS.get(spoiled[3], CHECKSUMS[1]).header
                spoiled[size - 2 : size] = checksum.of(bytes(spoiled[: size - 2]))
            data = bytes(spoiled)
            assert native_parse(data) == python_parse(data), (place, value)


@pytest.mark.parametrize("name", GOLDEN)
def test_damage_of_every_byte_of_a_body(name: str) -> None:
    bits = golden(name)
    for place in range(header_bytes(bits), len(bits)):
        spoiled = bits[:place] + bytes([bits[place] ^ 16]) + bits[place + 1 :]
        assert native_parse(spoiled) == python_parse(spoiled), place


def test_random_mutations() -> None:
    seeds = [golden(name) for name in GOLDEN if not name.endswith("-base.cdv")]
    outcomes = set()
    for index in range(6000):
        mutation, data = mutate(seeds, 7, index)
        found = native_parse(data)
        assert found == python_parse(data), (index, mutation)
        outcomes.add(found.field if isinstance(found, Refused) else "accepted")
    assert len(outcomes) > 25  # all kinds of faults were among them


def test_every_number_of_a_header_at_its_extremes() -> None:
    values = [*EXTREME_VARINTS, *(bytes([k]) for k in (0, 1, 2, 8, 16, 17, 127))]
    for name in KINDS:
        for place in range(2, len(UnsealedStream.of(golden(name)).fields)):
            for value in values:
                stream = UnsealedStream.of(golden(name))
                stream.fields[place] = value
                data = stream.seal()
                assert native_parse(data) == python_parse(data), (name, place, value)


def test_the_largest_name_of_a_fault_fits() -> None:
    picture = {"width": 8, "height": 8, "input_width": 8, "input_height": 8, "quality": 1}
    layers = [Layer(2**32 - 1 - k, b"x") for k in range(15, -1, -1)]
    bits = write_stream(codec=1, fingerprint=b"abcd", **picture, layers=layers)
    spoiled = bits[:-1] + bytes([bits[-1] ^ 1])
    assert native_parse(spoiled) == python_parse(spoiled)
    assert native_parse(spoiled) == Refused(
        len(bits) - 4, "layer 15 checksum (layer id 4294967295)"
    )


# --- writing


@pytest.mark.parametrize("name", GOLDEN)
def test_written_again_a_stream_has_the_same_bytes(name: str) -> None:
    parsed = read_stream(golden(name))
    if not parsed.complete:
        pytest.skip("a prefix: there is no body to write for what was cut")
    bits = golden(name)
    fields = accepted(parsed.header, parsed.layers).fields
    assert native_write(fields, parsed.layers) == bits
    assert native_write(fields, parsed.layers, len(bits) - 1) == (ARGUMENT, len(bits))


sizes = st.sampled_from([0, 1, 7, 8, 9, 64, 640, 2**26, 2**29, 2**32 - 1])
fields = st.fixed_dictionaries(
    {
        "codec": st.integers(0, 2**32 - 1),
        "fingerprint": st.binary(min_size=4, max_size=4),
        **{name: sizes for name in ("width", "height", "input_width", "input_height")},
        "quality": st.sampled_from([0, 1, 4, 8, 9, 255, 256]),
    }
)
numbers = st.integers(0, 3) | st.integers(0, 2**32 - 1)
layers = st.lists(st.builds(Layer, numbers, st.binary(max_size=40)), max_size=10)
ordered = st.lists(st.binary(max_size=40), min_size=1, max_size=9).map(
    lambda bodies: [Layer(k, body) for k, body in enumerate(bodies)]
)


@given(fields=fields, layers=layers | ordered, compact=st.booleans())
def test_any_stream_is_written_or_refused_alike(
    fields: dict[str, Any], layers: list[Layer], compact: bool
) -> None:
    try:
        expected: Any = write_stream(**fields, layers=layers, compact=compact)
    except CdvisionError:
        expected = (ARGUMENT, 0)
    assert native_write({**fields, "version": 1 + compact}, layers) == expected


# --- whole layers


def model_named(name: str) -> cdvision.Model:
    folder = TESTS / "packages" / name
    return cdvision.load(folder if folder.is_dir() else name)


@pytest.fixture(scope="module", params=["small", "test-dicm-re"])
def decoders(request: pytest.FixtureRequest) -> tuple[cdvision.Model, NativeCodec]:
    model = model_named(request.param)
    stride = model.card.latents["symbols"].stride
    return model, NativeCodec(codec_bytes(model.package.coder, model.card.codec, stride))


Decoders = tuple[cdvision.Model, NativeCodec]


def native_latents(codec: NativeCodec, data: bytes, stream: cdvision.Stream) -> Iterator[Any]:
    """Yield each layer's arrays as C decodes them, or the status."""
    for layer in stream.model.package.coder.layers:
        if any(one.id == layer.id for one in read_stream(data).layers):
            yield layer, codec.decode(data, layer.id)


def test_every_golden_stream_has_the_same_latents(decoders: Decoders) -> None:
    model, codec = decoders
    streams = [name for name, wrote in GOLDEN.items() if wrote == model.name]
    assert streams
    for name in streams:
        stream = model.open(golden(name))
        expected = stream.latents()
        decoded = 0
        for layer, arrays in native_latents(codec, golden(name), stream):
            for latent, array in zip(layer.latents, arrays, strict=True):
                assert np.array_equal(array.reshape(expected[latent].shape), expected[latent])
                decoded += 1
        assert decoded == len(expected)


def test_spoiled_bodies_are_refused_alike(decoders: Decoders) -> None:
    model, codec = decoders
    seeds = [golden(name) for name, wrote in GOLDEN.items() if wrote == model.name]
    refused = 0
    for index in range(400):
        name, data = mutate(seeds, 3, index)
        if not name.startswith("tamper_body") and name != "exchange_body":
            continue
        try:
            stream = model.open(data)
        except BitstreamError:
            continue
        for layer, found in native_latents(codec, data, stream):
            try:
                expected = stream._decoded([layer.id])
            except BitstreamError:
                assert isinstance(found, int), (index, name)
                refused += 1
                continue
            for latent, array in zip(layer.latents, found, strict=True):
                assert np.array_equal(array.reshape(expected[latent].shape), expected[latent])
    assert refused > 20


def test_what_a_codec_refuses(decoders: Decoders) -> None:
    model, codec = decoders
    name = next(name for name, wrote in GOLDEN.items() if wrote == model.name)
    bits, last = golden(name), model.package.coder.layers[-1].id
    assert codec.decode(bits, 99) == ARGUMENT
    assert codec.decode(bits, last, with_hyper=False) == ARGUMENT
    assert codec.decode(golden("hsc-q4.cdv"), last) == ARGUMENT  # another model's
    assert codec.decode(bits[: header_bytes(bits)], last) == ARGUMENT  # cut before it
    assert codec.shapes(last, 0, 64) == codec.shapes(last, 2**31, 2**31) == ARGUMENT


def test_statuses_have_texts() -> None:
    texts = [LIBRARY.cdv_status_text(status).decode() for status in range(16)]
    assert texts[OK] == "no error"
    assert texts[DAMAGED] == "a checksum disagrees"
    assert texts[15] == LIBRARY.cdv_status_text(-1).decode() == "unknown status"
    assert len(set(texts)) == 16
