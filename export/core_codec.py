"""``cdvision export --to core``: a model's entropy coder as one file, for programs without Python.

::

    package ─ layers ─ serialise ─ codec.cdvc ─▶ cdv_codec_new, cdv_codec_decode (cdv.h) ─▶ latents

The dense graphs behind the latents are those of ``--to onnx``. ``docs/c.md`` shows both in use.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdvision.core.codecs import fingerprint_of, new_codec
from cdvision.core.library import FOLDER, CoreError
from cdvision.entropy.coder import Coder
from cdvision.entropy.core_layers import CoreLayer, CoreMap, CoreVector
from cdvision.entropy.integer_network import IntegerLayer, IntegerNetwork
from cdvision.entropy.map_coder import SYMBOLS
from cdvision.entropy.tables import SymbolTables
from cdvision.errors import ModelError
from cdvision.model import Model
from cdvision.stream.header import FINGERPRINT_BYTES

CODEC_FILE = "codec.cdvc"
MAGIC, VERSION = b"CDVC", 1
VECTOR, MAP = 0, 1


@dataclass(frozen=True)
class CoreReport:
    """What was written, and what a C program is compiled and linked with.

    Attributes:
        layers: id -> ``"vector"`` or ``"map"``.
        folder: of ``cdv.h`` and of the library of this machine.
    """

    model: str
    file: Path
    bytes: int
    fingerprint: str
    layers: Mapping[int, str]
    folder: Path = FOLDER

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return {**asdict(self), "file": str(self.file), "folder": str(self.folder)}

    def __str__(self) -> str:
        """What was written, and what to link it with."""
        kinds = ", ".join(f"{number} ({kind})" for number, kind in self.layers.items())
        return (
            f"{self.model} for cdv.h in {self.file}: {self.bytes / 1e3:.1f} kB, layers {kinds}\n"
            f"  cc -I {self.folder} program.c -L {self.folder} -lcdv -Wl,-rpath,{self.folder}"
        )


def write_core(model: Model, folder: Path) -> CoreReport:
    """Write ``codec.cdvc``, which holds all that the core needs to decode a model's streams.

    Args:
        model: on any engine.
        folder: made where missing.

    Raises:
        ModelError: the core does not decode the model's layers by itself.
    """
    coder, card = model.package.coder, model.card
    # A map's cell is so many pixels of the network input: the card says it, not the coder.
    stride = card.latents[SYMBOLS].stride if SYMBOLS in card.latents else None
    try:
        data = codec_bytes(coder, card.codec, stride)
        kinds = {one.id: kind_of(one) for one in coder.core_layers()}
    except ModelError as error:
        raise ModelError(f"model {model.name!r}: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CODEC_FILE
    path.write_bytes(data)
    return CoreReport(model.name, path, len(data), card.fingerprint[: 2 * FINGERPRINT_BYTES], kinds)


def codec_bytes(coder: Coder, codec: int, stride: int | None) -> bytes:
    """Return the bytes of ``codec.cdvc``; the core has read them once.

    Args:
        coder: whose layers are written.
        codec: its number in streams.
        stride: pixels of the network input across a cell of the map, where there is a map.

    Raises:
        ModelError: the core does not decode the layers by itself.
    """
    layers, fingerprint = coder.core_layers(), coder.fingerprint[:FINGERPRINT_BYTES]
    head = MAGIC + _numbers(VERSION, codec) + fingerprint + _numbers(len(layers))
    data = head + b"".join(_layer_bytes(layer, stride) for layer in layers)
    try:
        found = fingerprint_of(new_codec(data))
    except CoreError as error:
        raise ModelError(f"{CODEC_FILE}: expected what cdv.h reads, found {error}") from None
    if found != fingerprint:
        raise ModelError(f"{CODEC_FILE}: expected {fingerprint.hex()}, found {found.hex()}")
    return data


def kind_of(layer: CoreLayer) -> str:
    """Name a layer's form."""
    return "map" if isinstance(layer, CoreMap) else "vector"


def _layer_bytes(layer: CoreLayer, stride: int | None) -> bytes:
    if isinstance(layer, CoreVector):
        head = _numbers(layer.id, VECTOR, layer.qualities, layer.elements)
        return head + _table_bytes(layer.tables)
    if stride is None:
        raise ModelError(f"{SYMBOLS}: expected the stride of a map, found none")
    head = _numbers(layer.id, MAP, layer.qualities, stride)
    tables = _table_bytes(layer.symbols) + _table_bytes(layer.hyper)
    return head + tables + _network_bytes(layer.network)


def _table_bytes(tables: SymbolTables) -> bytes:
    head = _numbers(len(tables), len(tables.frequencies))
    ranges = _array_bytes(tables.low, "<i2") + _array_bytes(tables.high, "<i2")
    return head + ranges + _array_bytes(tables.frequencies, "<u2")


def _network_bytes(network: IntegerNetwork) -> bytes:
    head = _numbers(len(network.layers), network.bound)
    return head + b"".join(map(_network_layer_bytes, network.layers))


def _network_layer_bytes(layer: IntegerLayer) -> bytes:
    settings = layer.shift, layer.low, layer.high, layer.upsample
    head = struct.pack("<8i", *layer.weight.shape[:3], len(layer.bias), *settings)
    return head + _array_bytes(layer.bias, "<i4") + _array_bytes(layer.weight, "<i1")


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _array_bytes(array: NDArray[np.generic], kind: str) -> bytes:
    return array.astype(kind).tobytes()
