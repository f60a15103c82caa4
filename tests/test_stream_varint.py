"""Varints have one spelling each, and a reader accepts no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdvision.errors import BitstreamError, CdvisionError
from cdvision.stream.varint import VARINT_MAX, decode_varint, encode_varint

SIZES = [(0, 1), (127, 1), (128, 2), (16383, 2), (16384, 3), (2**21 - 1, 3), (2**21, 4), (2**28, 5)]


@given(value=st.integers(0, VARINT_MAX), before=st.binary(max_size=3), after=st.binary(max_size=3))
def test_round_trip_anywhere_in_the_data(value: int, before: bytes, after: bytes) -> None:
    data = before + encode_varint(value) + after
    assert decode_varint(data, len(before), "n") == (value, len(data) - len(after))


@given(data=st.binary(max_size=6))
def test_what_decodes_is_the_one_spelling(data: bytes) -> None:
    try:
        value, end = decode_varint(data, 0, "n")
    except BitstreamError:
        return
    assert encode_varint(value) == data[:end]


@pytest.mark.parametrize(("value", "size"), [*SIZES, (VARINT_MAX, 5)])
def test_sizes(value: int, size: int) -> None:
    assert len(encode_varint(value)) == size


@pytest.mark.parametrize("value", [-1, VARINT_MAX + 1])
def test_writer_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(CdvisionError, match=f"a varint holds 0 to 4294967295, not {value}"):
        encode_varint(value)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("", "width at byte 0: expected a varint of 1 to 5 bytes, found 0 bytes, then the end"),
        ("8080", "width at byte 0: expected a varint of 1 to 5 bytes, found 2 bytes, then the end"),
        ("8000", "width at byte 0: expected the shortest varint of 0, found 2 bytes (80 00)"),
        ("ac8200", "width at byte 0: expected the shortest varint of 300, found 3 bytes"),
        ("ffffffff1f", "width at byte 0: expected at most 4294967295, found 8589934591"),
        (
            "ffffffffff01",
            "width at byte 0: expected a varint of 1 to 5 bytes, found ff ff ff ff ff",
        ),
    ],
)
def test_reader_says_what_is_wrong(encoded: str, message: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        decode_varint(bytes.fromhex(encoded), 0, "width")
    assert message in str(caught.value)
