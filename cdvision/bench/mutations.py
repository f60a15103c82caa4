"""Ways to spoil a stream.

::

    blind     bytes ─ truncate, flip, overwrite … ─▶ bytes
    sealed    bytes ─ unseal ─ change a field or a body ─ seal ─▶ bytes

Blind ones are mostly stopped by a checksum. In sealed ones the checksums fit again, so the parser's
own checks and the entropy decoder are what must hold.

``mutate(seeds, seed, index)`` depends on its arguments alone: item ``index`` of a campaign can be
made again without the items before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from cdvision.stream import StreamLimits, read_stream
from cdvision.stream.header import (
    FINGERPRINT_BYTES,
    INPUT_UNIT,
    LAYER_CHECKSUM_BYTES,
    MAGIC,
    header_checksum,
)
from cdvision.stream.varint import VARINT_MAX, encode_varint

Mutation: TypeAlias = Callable[[Random, Sequence[bytes]], bytes]

EXTREME_VARINTS = (
    b"",
    b"\x00",
    b"\x80\x00",  # zero, padded
    b"\xff\xff\xff\xff\x0f",  # 2**32 - 1
    b"\xff\xff\xff\xff\x7f",  # five bytes, over 32 bits
    b"\x80\x80\x80\x80\x80\x01",
    b"\xff" * 10,
)
VERSION_AT, FINGERPRINT_AT, LAYER_TABLE_AT = 1, 3, 10
UNLIMITED = StreamLimits(max_pixels=2**70, max_layers=2**32, max_layer_bytes=2**32)


@dataclass
class UnsealedStream:
    """A stream whose fields and bodies may be changed at will before it is sealed again.

    ``fields`` are the header's bytes in order: magic, version, codec, fingerprint, width, height,
    input width, input height, quality, number of layers, then an id and a length for each layer.
    """

    fields: list[bytes]
    bodies: list[bytes]

    @classmethod
    def of(cls, stream: bytes) -> UnsealedStream:
        """Take a valid stream apart."""
        parsed = read_stream(stream, limits=UNLIMITED)
        header = parsed.header
        numbers = [header.width, header.height]
        numbers += [header.input_width // INPUT_UNIT, header.input_height // INPUT_UNIT]
        numbers += [header.quality, len(header.layers)]
        numbers += [number for entry in header.layers for number in (entry.id, entry.length)]
        start = [MAGIC, bytes([header.version]), encode_varint(header.codec), header.fingerprint]
        return cls(start + [encode_varint(n) for n in numbers], [x.body for x in parsed.layers])

    def replace_body(self, index: int, body: bytes) -> None:
        """Replace the body of a layer, and its length in the table."""
        self.bodies[index] = body
        length = encode_varint(len(body) + LAYER_CHECKSUM_BYTES)
        self.fields[LAYER_TABLE_AT + 2 * index + 1] = length

    def seal(self) -> bytes:
        """Return the bytes, with checksums that fit whatever the fields now say."""
        header = b"".join(self.fields)
        crcs = (zlib.crc32(body).to_bytes(LAYER_CHECKSUM_BYTES, "little") for body in self.bodies)
        payloads = [body + crc for body, crc in zip(self.bodies, crcs, strict=True)]
        return b"".join([header, header_checksum(header), *payloads])


def mutate(seeds: Sequence[bytes], seed: int, index: int) -> tuple[str, bytes]:
    """Return the name of a mutation and what it makes of one of ``seeds``."""
    rng = Random(f"{seed}:{index}")  # noqa: S311 - reproducible on purpose
    name = rng.choice(tuple(MUTATIONS))
    return name, MUTATIONS[name](rng, seeds)


def truncate(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Cut the end off."""
    data = rng.choice(seeds)
    return data[: rng.randrange(len(data))]


def flip_bits(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Flip one to eight bits."""
    return _flip(rng, rng.choice(seeds))


def overwrite(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Overwrite a run of bytes."""
    return _overwrite(rng, rng.choice(seeds))


def insert(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Insert a run of bytes."""
    return _insert(rng, rng.choice(seeds))


def delete(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Delete a run of bytes."""
    return _delete(rng, rng.choice(seeds))


def splice(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Join the start of one stream to the end of another."""
    first, second = rng.choice(seeds), rng.choice(seeds)
    return first[: rng.randrange(len(first) + 1)] + second[rng.randrange(len(second) + 1) :]


def tamper_field(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Give a header field another well-spelled value; the checksums fit."""
    stream = UnsealedStream.of(rng.choice(seeds))
    at = rng.randrange(VERSION_AT, len(stream.fields))
    if at == VERSION_AT:
        stream.fields[at] = rng.randbytes(1)
    elif at == FINGERPRINT_AT:
        stream.fields[at] = rng.randbytes(FINGERPRINT_BYTES)
    else:
        stream.fields[at] = encode_varint(_any_number(rng))
    return stream.seal()


def tamper_varint(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Give a header field an extreme or ill-spelled varint; the checksums fit."""
    stream = UnsealedStream.of(rng.choice(seeds))
    at = rng.randrange(VERSION_AT, len(stream.fields))
    stream.fields[at] = rng.choice(EXTREME_VARINTS)
    return stream.seal()


def tamper_body(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Spoil a layer's body; its length and the checksums fit."""
    stream = UnsealedStream.of(rng.choice(seeds))
    at = rng.randrange(len(stream.bodies))
    body = rng.choice(BODY_MUTATIONS)(rng, stream.bodies[at])
    stream.replace_body(at, body)
    return stream.seal()


def tamper_body_start(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Spoil the first 16 bytes of a body, where coder states and counts stand; checksums fit."""
    stream = UnsealedStream.of(rng.choice(seeds))
    at = rng.randrange(len(stream.bodies))
    body = stream.bodies[at]
    stream.replace_body(at, rng.choice(BODY_MUTATIONS)(rng, body[:16]) + body[16:])
    return stream.seal()


def exchange_body(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Put the body of another stream's layer under this stream's header; the checksums fit."""
    stream, donor = UnsealedStream.of(rng.choice(seeds)), UnsealedStream.of(rng.choice(seeds))
    stream.replace_body(rng.randrange(len(stream.bodies)), rng.choice(donor.bodies))
    return stream.seal()


def _any_number(rng: Random) -> int:
    near_power = 2 ** rng.randrange(33) + rng.randrange(-1, 2)
    return rng.choice((rng.randrange(20), rng.randrange(2000), min(near_power, VARINT_MAX)))


def _flip(rng: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        spoiled[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def _overwrite(rng: Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.randint(1, 32)
    return data[:at] + _filler(rng, min(size, len(data) - at)) + data[at + size :]


def _insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + _filler(rng, rng.randint(1, 32)) + data[at:]


def _delete(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randint(1, 32) :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _refill(rng: Random, data: bytes) -> bytes:
    return _filler(rng, len(data))


def _filler(rng: Random, size: int) -> bytes:
    return rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))


BODY_MUTATIONS = (_flip, _overwrite, _insert, _delete, _cut, _refill)
MUTATIONS: dict[str, Mutation] = {
    mutation.__name__: mutation
    for mutation in (
        truncate,
        flip_bits,
        overwrite,
        insert,
        delete,
        splice,
        tamper_field,
        tamper_varint,
        tamper_body,
        tamper_body_start,
        exchange_body,
    )
}
