"""Damaged payloads: a result or a BitstreamError, never anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdvision.entropy.rans import RansDecoder, Segment, decode_latents, encode_segments
from cdvision.entropy.tables import gaussian_tables, log_scale_table, tables_from_probabilities
from cdvision.errors import BitstreamError

TABLES = gaussian_tables(log_scale_table(levels=16))
PRIOR = tables_from_probabilities([[0.3, 0.3, 0.3]], low=-1)


def payload(escapes: bool) -> tuple[list[Segment], bytes]:
    random = np.random.default_rng(5)
    wide = 5 if escapes else 2
    hyper = Segment(random.integers(1 - wide, wide, 31), np.zeros(31, np.uint8), PRIOR)
    index = random.integers(0, 16, 402).astype(np.uint8)
    symbols = np.rint(random.normal(0, log_scale_table(levels=16)[index])).astype(np.int32)
    symbols = np.clip(symbols, TABLES.low[index], TABLES.high[index])
    if escapes:
        symbols[np.flatnonzero(index)[::40]] = 70_000
    parts = [hyper, Segment(symbols, index, TABLES)]
    return parts, encode_segments(parts)


PARTS, DATA = payload(escapes=True)
PLAIN_PARTS, PLAIN = payload(escapes=False)


def decoded(data: bytes, parts: list[Segment] = PARTS) -> list[np.ndarray] | None:
    """The segments, or None where the decoder says that the bytes are damaged."""
    try:
        decoder = RansDecoder(data)
        symbols = [decoder.read(part.index, part.tables) for part in parts]
        decoder.finish()
    except BitstreamError:
        return None
    assert all(s.shape == p.index.shape for s, p in zip(symbols, parts, strict=True))
    assert all((np.abs(s.astype(np.int64)) < 1 << 20).all() for s in symbols)
    return symbols


def test_the_undamaged_payload_decodes() -> None:
    symbols = decoded(DATA)
    assert symbols is not None
    assert all((s == p.symbols).all() for s, p in zip(symbols, PARTS, strict=True))


def test_truncation_at_every_byte_is_noticed() -> None:
    assert [n for n in range(len(DATA)) if decoded(DATA[:n]) is not None] == []


@pytest.mark.parametrize("extra", [b"\0", b"\0\0", b"\xff\xff", b"\0" * 64])
def test_extra_bytes_are_noticed(extra: bytes) -> None:
    assert decoded(DATA + extra) is None


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_bit_flip_is_noticed_or_gives_another_valid_payload() -> None:
    """Swapping symbols of equal frequency leaves no trace in a state: the layer's CRC sees that."""
    noticed = 0
    for bit in range(8 * len(PLAIN)):
        damaged = flipped(PLAIN, bit)
        symbols = decoded(damaged, PLAIN_PARTS)
        noticed += symbols is None
        if symbols is not None:
            pairs = zip(symbols, PLAIN_PARTS, strict=True)
            assert encode_segments([Segment(s, p.index, p.tables) for s, p in pairs]) == damaged
    assert noticed > 0.97 * 8 * len(PLAIN)


def test_bit_flips_among_escapes_are_harmless() -> None:
    for bit in range(8 * len(DATA)):
        decoded(flipped(DATA, bit))


@given(st.binary(max_size=400))
@example(b"\xff" * 400)
@example(b"\0\0\1\0" * 100)
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_harmless(data: bytes) -> None:
    decoded(data)


@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1))
@settings(max_examples=200, deadline=None)
def test_random_damage_is_harmless(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(DATA)
    for position, value in changes:
        damaged[position] = value
    decoded(bytes(damaged))


def test_escape_only_garbage_ends() -> None:
    prior = tables_from_probabilities([[0.0005]], low=0)  # almost every slot is an escape
    random = np.random.default_rng(0)
    for _ in range(200):
        data = random.integers(0, 256, 4000, np.uint8).tobytes()
        try:
            decode_latents(data, np.zeros(5000, np.uint8), prior)
        except BitstreamError as error:
            assert error.offset is not None  # noqa: PT017
            assert error.offset <= len(data)  # noqa: PT017


def test_errors_say_where() -> None:
    with pytest.raises(BitstreamError, match=r"payload length at byte 0: .* found 3"):
        RansDecoder(b"abc")
    with pytest.raises(BitstreamError, match="rANS state at byte 4: expected 65536 or more"):
        RansDecoder(DATA[:4] + b"\0\0\0\0" + DATA[8:])
    with pytest.raises(BitstreamError, match=r"rANS words at byte 40: .* the end of the payload"):
        decode_latents(DATA[:40], np.full(5000, 9), TABLES)
    with pytest.raises(BitstreamError, match="rANS words at byte 16: expected 0 words in all"):
        RansDecoder(DATA).finish()
    with pytest.raises(BitstreamError, match="rANS final states"):
        RansDecoder(DATA[:16]).finish()


def test_reading_on_after_an_error_is_harmless() -> None:
    decoder = RansDecoder(DATA[:40])
    for _ in range(3):
        with pytest.raises(BitstreamError):
            decoder.read(np.full(5000, 9), TABLES)
