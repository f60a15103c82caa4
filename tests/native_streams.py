"""``cdv_stream_parse``, ``cdv_stream_write`` and ``cdv_codec_decode`` for tests, through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char, c_size_t, c_uint8, c_uint32, c_void_p
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cdvision.core.codecs import new_codec
from cdvision.core.library import LIBRARY, Handle, address
from cdvision.stream import Layer, StreamHeader

MOST_LAYERS = 16
CHECKSUM_BYTES = {1: 4, 2: 2}  # of a layer, by format version


class NativeLayer(Structure):
    """``cdv_stream_layer``."""

    _fields_ = [
        ("id", c_uint32), ("intact", c_uint32), ("offset", c_size_t), ("length", c_size_t),
    ]  # fmt: skip


class NativeStream(Structure):
    """``cdv_stream``."""

    _fields_ = [
        ("version", c_uint32),
        ("codec", c_uint32),
        ("fingerprint", c_uint8 * 4),
        *((name, c_uint32) for name in ("width", "height", "input_width", "input_height")),
        *((name, c_uint32) for name in ("quality", "layer_count", "present")),
        ("header_bytes", c_size_t),
        ("layers", NativeLayer * MOST_LAYERS),
    ]


class NativeFault(Structure):
    """``cdv_fault``."""

    _fields_ = [("offset", c_size_t), ("field", c_char * 40)]


class NativeShape(Structure):
    """``cdv_shape``."""

    _fields_ = [("channels", c_size_t), ("height", c_size_t), ("width", c_size_t)]


class Refused(NamedTuple):
    """Where a stream was refused, and for which field."""

    offset: int
    field: str


class Accepted(NamedTuple):
    """What a stream said: header fields by name, layers' ids and lengths, and those present."""

    fields: dict[str, Any]
    table: list[tuple[int, int]]
    layers: list[Layer]


PICTURE = ("codec", "width", "height", "input_width", "input_height", "quality", "version")


def native_parse(data: bytes) -> Accepted | Refused:
    """Parse with C, without and with a place for the fault."""
    status, stream, fault = parse_status(data)
    assert (
        LIBRARY.cdv_stream_parse(data, c_size_t(len(data)), byref(NativeStream()), None) == status
    )
    if status:
        return Refused(fault.offset, fault.field.decode())
    names = [(one.id, one.length, one.offset) for one in stream.layers[: stream.layer_count]]
    more = CHECKSUM_BYTES[stream.version]
    fields = {name: getattr(stream, name) for name in PICTURE}
    fields["fingerprint"] = bytes(stream.fingerprint)
    layers = [Layer(number, data[at : at + size]) for number, size, at in names[: stream.present]]
    return Accepted(fields, [(number, size + more) for number, size, _ in names], layers)


def parse_status(data: bytes) -> tuple[int, NativeStream, NativeFault]:
    """Parse with C; returns the status as it is."""
    stream, fault = NativeStream(), NativeFault()
    status = LIBRARY.cdv_stream_parse(data, c_size_t(len(data)), byref(stream), byref(fault))
    return int(status), stream, fault


def accepted(header: StreamHeader, layers: Sequence[Layer]) -> Accepted:
    """Put what ``read_stream`` found into the same form."""
    fields = {name: getattr(header, name) for name in PICTURE}
    fields["fingerprint"] = header.fingerprint
    return Accepted(fields, [(one.id, one.length) for one in header.layers], list(layers))


def native_write(
    fields: dict[str, Any], layers: Sequence[Layer], capacity: int | None = None
) -> Any:
    """Write with C: the bytes, or the status and what the stream takes."""
    stream = NativeStream(**{name: fields[name] for name in PICTURE}, layer_count=len(layers))
    stream.fingerprint[:] = fields["fingerprint"]
    for place, layer in zip(stream.layers, layers, strict=False):
        place.id, place.length = layer.id, len(layer.body)
    bodies = (ctypes.c_char_p * max(len(layers), 1))(*(layer.body for layer in layers))
    written = c_size_t()
    status = LIBRARY.cdv_stream_write(byref(stream), bodies, None, c_size_t(0), byref(written))
    room = written.value if capacity is None else capacity
    out = np.zeros(max(room, 1), np.uint8)
    status = LIBRARY.cdv_stream_write(
        byref(stream), bodies, c_void_p(address(out)), c_size_t(room), byref(written)
    )
    return (status, written.value) if status else out[: written.value].tobytes()


class NativeCodec:
    """A ``codec.cdvc`` that decodes layers of streams."""

    def __init__(self, data: bytes) -> None:
        self._codec: Handle = new_codec(data)

    def shapes(self, layer: int, width: int, height: int) -> Any:
        """Shapes of symbols and hyper-latent; the status where there are none."""
        symbols, hyper = NativeShape(), NativeShape()
        status = LIBRARY.cdv_codec_shapes(
            c_void_p(self._codec.pointer), layer, width, height, byref(symbols), byref(hyper)
        )
        return status or (symbols, hyper)

    def decode(self, data: bytes, layer: int, *, with_hyper: bool = True) -> Any:
        """Decode a layer to its arrays, hyper-latent last where there is one; or the status."""
        status, stream, _ = parse_status(data)
        assert not status
        found = self.shapes(layer, stream.input_width, stream.input_height)
        if isinstance(found, int):
            return found
        arrays: list[NDArray[np.int32]] = [
            np.full((one.channels, one.height, one.width), 77, np.int32) for one in found
        ]
        places = [c_void_p(address(one)) if one.size else None for one in arrays]
        status = LIBRARY.cdv_codec_decode(
            c_void_p(self._codec.pointer), byref(stream), data, layer, places[0],
            places[1] if with_hyper else None,
        )  # fmt: skip
        return status or [one for one in arrays if one.size]


def declare() -> None:
    """Tell ctypes the kinds of arguments that it cannot guess."""
    LIBRARY.cdv_stream_parse.argtypes = [
        ctypes.c_char_p, c_size_t, POINTER(NativeStream), c_void_p,
    ]  # fmt: skip


declare()
