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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TypeAlias

from cdvision.stream import StreamLimits, read_stream
from cdvision.stream.checksums import CHECKSUMS, Checksums
from cdvision.stream.compact import Form
from cdvision.stream.header import (
    COMPACT_VERSION,
    FINGERPRINT_BYTES,
    FORMAT_VERSION,
    INPUT_UNIT,
    MAGIC,
    StreamHeader,
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
VERSION_AT, FINGERPRINT_AT, FORM_AT = 1, 3, 4
UNLIMITED = StreamLimits(max_pixels=2**70, max_layers=2**32, max_layer_bytes=2**32)


@dataclass
class UnsealedStream:
    """A stream whose fields and bodies may be changed at will before it is sealed again.

    ``fields`` are the header's bytes in order: magic, version, codec, fingerprint; then width,
    height, input width, input height, quality, number of layers, and an id and a length for each
    layer; or, in a compact stream, the form, the sizes that it calls for, and the lengths.
    ``lengths_at`` are the places of the lengths.
    """

    fields: list[bytes]
    bodies: list[bytes]
    lengths_at: list[int]

    @classmethod
    def of(cls, stream: bytes) -> UnsealedStream:
        """Take a valid stream apart."""
        parsed = read_stream(stream, limits=UNLIMITED)
        header, count = parsed.header, len(parsed.header.layers)
        compact = header.version == COMPACT_VERSION
        rest = _compact_fields(header) if compact else _plain_fields(header)
        start = [MAGIC, bytes([header.version]), encode_varint(header.codec), header.fingerprint]
        end, step = len(start) + len(rest), 1 if compact else 2
        lengths_at = list(range(end - step * (count - 1) - 1, end, step))
        return cls(start + rest, [x.body for x in parsed.layers], lengths_at)

    @property
    def checksums(self) -> Checksums:
        """Those of the version that the fields name; of version 1 where there is none such."""
        version = int.from_bytes(self.fields[VERSION_AT][:1], "little")
        return CHECKSUMS.get(version, CHECKSUMS[FORMAT_VERSION])

    def replace_body(self, index: int, body: bytes) -> None:
        """Replace the body of a layer, and its length in the table."""
        self.bodies[index] = body
        self.fields[self.lengths_at[index]] = encode_varint(len(body) + self.checksums.layer.size)

    def seal(self) -> bytes:
        """Return the bytes, with checksums that fit whatever the fields now say."""
        header, checksums = b"".join(self.fields), self.checksums
        payloads = [body + checksums.layer.of(body) for body in self.bodies]
        return b"".join([header, checksums.header.of(header), *payloads])


def _plain_fields(header: StreamHeader) -> list[bytes]:
    numbers = [header.width, header.height]
    numbers += [header.input_width // INPUT_UNIT, header.input_height // INPUT_UNIT]
    numbers += [header.quality, len(header.layers)]
    numbers += [number for entry in header.layers for number in (entry.id, entry.length)]
    return [encode_varint(number) for number in numbers]


def _compact_fields(header: StreamHeader) -> list[bytes]:
    form = Form.of(header)
    sizes = [field.encode(getattr(header, field.name)) for field in form.picture_fields()]
    lengths = [encode_varint(entry.length) for entry in header.layers]
    return [bytes([form.byte()]), *sizes, *lengths]


def mutate(seeds: Sequence[bytes], seed: int, index: int) -> tuple[str, bytes]:
    """Return the name of a mutation and what it makes of one of ``seeds``."""
    rng = Random(f"{seed}:{index}")  # noqa: S311 - reproducible on purpose
    name = rng.choice(tuple(MUTATIONS))
    return name, MUTATIONS[name](rng, seeds)


def truncate(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Cut the end off."""
    data = rng.choice(seeds)
    return data[: rng.randrange(len(data))]


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
    elif at == FORM_AT and stream.fields[VERSION_AT][0] == COMPACT_VERSION:
        stream.fields[at] = rng.randbytes(1)
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
    return _tamper_body(rng, seeds, None)


def tamper_body_start(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Spoil the first 16 bytes of a body, where coder states and counts stand; checksums fit."""
    return _tamper_body(rng, seeds, 16)


def exchange_body(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """Put the body of another stream's layer under this stream's header; the checksums fit."""
    stream, donor = UnsealedStream.of(rng.choice(seeds)), UnsealedStream.of(rng.choice(seeds))
    stream.replace_body(rng.randrange(len(stream.bodies)), rng.choice(donor.bodies))
    return stream.seal()


def _tamper_body(rng: Random, seeds: Sequence[bytes], most: int | None) -> bytes:
    """Spoil the first ``most`` bytes of a body, all of them where None."""
    stream = UnsealedStream.of(rng.choice(seeds))
    at = rng.randrange(len(stream.bodies))
    start = stream.bodies[at][:most]
    rest = stream.bodies[at][len(start) :]
    stream.replace_body(at, rng.choice(BODY_MUTATIONS)(rng, start) + rest)
    return stream.seal()


def _change_stream(
    change: Callable[[Random, bytes], bytes], rng: Random, seeds: Sequence[bytes]
) -> bytes:
    return change(rng, rng.choice(seeds))


def _any_number(rng: Random) -> int:
    # Parsers go wrong where a number needs one byte or bit more than was thought.
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
# Campaigns draw from these by place, so their order is part of what a seed means.
MUTATIONS: dict[str, Mutation] = {
    "truncate": truncate,
    **{
        name: partial(_change_stream, change)
        for name, change in (
            ("flip_bits", _flip),
            ("overwrite", _overwrite),
            ("insert", _insert),
            ("delete", _delete),
        )
    },
    "splice": splice,
    "tamper_field": tamper_field,
    "tamper_varint": tamper_varint,
    "tamper_body": tamper_body,
    "tamper_body_start": tamper_body_start,
    "exchange_body": exchange_body,
}
