"""The compact header, format version 2: 20 bytes and less, where every byte of a face counts.

::

    bytes   3     1         v       4             1      v         v        v       v
          +-----+---------+-------+-------------+------+---------+--------+-------+--------+
          | CDV | version | codec | fingerprint | form | input   | input  | width | height |
          |     |    2    |       | (of model)  |      | width/8 | ht./8  |   (source)     |
          +-----+---------+-------+-------------+------+---------+--------+-------+--------+
            v         v                 2                        (where the form says so)
          +---------+---------+----------+
          | length  | length  | checksum |       v: varint
          | layer 0 | layer 1 |          |
          +---------+---------+----------+

The form is one byte: quality - 1 in bits 0 to 2, the number of layers - 1 in bits 3 to 5, bit 6 set
where the source has another size than the network input, bit 7 where the network input is not
square. Layer ids are not written: layer k has id k. All checksums are CRC-16 (``checksums``).
"""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import CdvisionError
from cdvision.stream.checksums import CHECKSUMS
from cdvision.stream.header import (
    COMPACT_VERSION,
    PICTURE,
    NumberField,
    StreamHeader,
    closed_header,
)

MOST_QUALITIES, MOST_LAYERS = 8, 8
OTHER_SOURCE, OTHER_HEIGHT = 1 << 6, 1 << 7
FORM = "form"
WIDTH, HEIGHT, INPUT_WIDTH, INPUT_HEIGHT = PICTURE[:4]


@dataclass(frozen=True)
class Form:
    """What the form byte says."""

    quality: int  # 1 to 8
    layers: int  # number of layers, 1 to 8
    other_source: bool  # the source's width and height are written
    other_height: bool  # the network input's height is written

    @classmethod
    def of(cls, header: StreamHeader) -> Form:
        """Return the one form that fits a header."""
        inputs = (header.input_width, header.input_height)
        return cls(
            quality=header.quality,
            layers=len(header.layers),
            other_source=(header.width, header.height) != inputs,
            other_height=header.input_height != header.input_width,
        )

    @classmethod
    def parsed(cls, byte: int) -> Form:
        """Read a form byte; each of the 256 is one."""
        return cls(
            quality=(byte & 7) + 1,
            layers=(byte >> 3 & 7) + 1,
            other_source=bool(byte & OTHER_SOURCE),
            other_height=bool(byte & OTHER_HEIGHT),
        )

    def byte(self) -> int:
        """Return the form byte.

        >>> hex(Form(quality=4, layers=2, other_source=True, other_height=False).byte())
        '0x4b'
        """
        flags = OTHER_SOURCE * self.other_source | OTHER_HEIGHT * self.other_height
        # Three bits hold 1 to 8 as 0 to 7: a stream has at least one layer and one quality.
        return flags | self.layers - 1 << 3 | self.quality - 1

    def picture_fields(self) -> list[NumberField]:
        """Return the sizes that are written, in order."""
        sizes = [INPUT_WIDTH]
        sizes += [INPUT_HEIGHT] if self.other_height else []
        return sizes + ([WIDTH, HEIGHT] if self.other_source else [])


def length_field(index: int) -> NumberField:
    """Return the field of one layer's length."""
    return NumberField(f"layer {index} length", low=CHECKSUMS[COMPACT_VERSION].layer.size)


def encode_compact_header(header: StreamHeader) -> bytes:
    """Return the bytes of ``header`` in format version 2, checksum included.

    Raises:
        CdvisionError: a value does not fit its field.
    """
    _check_fits(header)
    form = Form.of(header)
    parts = [bytes([form.byte()])]
    parts += [field.encode(getattr(header, field.name)) for field in form.picture_fields()]
    parts += [length_field(k).encode(entry.length) for k, entry in enumerate(header.layers)]
    return closed_header(header, parts)


def _check_fits(header: StreamHeader) -> None:
    # Sizes that the form leaves out have to be sizes too: a reader copies them from others.
    for field in PICTURE[:4]:
        field.encode(getattr(header, field.name))
    ids = [entry.id for entry in header.layers]
    sound = isinstance(header.quality, int) and 1 <= header.quality <= MOST_QUALITIES
    for name, fits, expected, found in (
        ("quality", sound, f"1 to {MOST_QUALITIES}", repr(header.quality)),
        ("number of layers", 1 <= len(ids) <= MOST_LAYERS, f"1 to {MOST_LAYERS}", len(ids)),
        ("layer ids", ids == list(range(len(ids))), "0, 1, 2 ... in order", ids),
    ):
        if not fits:
            raise CdvisionError(
                f"a compact stream cannot hold {name} = {found}: expected {expected} "
                "(write it without compact=True)"
            )
