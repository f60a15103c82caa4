"""Between an entropy coder and everything else: a graph's arrays, latents, and layers of a stream.

::

    encoder's outputs ─▶ latents ─ write ─▶ layers of a stream ─ read ─▶ latents ─▶ graphs' inputs

A codec of maps writes one layer, of any size of image. A codec of faces writes several, of one
size; a stream that was cut after any of them can be read. A codec of described maps writes two
that do not need each other: a tail reads one of them, and a sender may leave the other out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdvision.entropy.latent_coder import Latents
from cdvision.entropy.layered_coder import LayeredCoder
from cdvision.errors import BitstreamError, ModelError
from cdvision.models.small.receiver.coder import (
    DESCRIPTOR_LAYER,
    MAP_LAYER,
    DescribedLatents,
    DescribedMapCoder,
)
from cdvision.package.card import ModelCard
from cdvision.package.codecs import (
    DESCRIBED_MAP,
    LAYERED_CODERS,
    Coder,
    coder_from_arrays,
    layered_coder_from_arrays,
)
from cdvision.stream import Layer, StreamHeader

Arrays: TypeAlias = dict[str, NDArray[Any]]
LayeredLatents: TypeAlias = tuple[NDArray[np.int32], ...]
"""Integers of each layer that has arrived."""

BASE_LAYER = 0
ENCODER, DESCRIBER = "encoder", "descriptor"  # the sender's graphs
LAYER_COUNT = "layers"  # graph input: how many layers each item of a batch has


class StreamCodec(Protocol):
    """What models and streams ask of a codec. Qualities count from 1, as in a header.

    Attributes:
        compact: whether its streams have the short header.
        sender_graphs: the graphs that a sender runs; for each, the layer that comes of it, or None
            where all layers do.
    """

    compact: ClassVar[bool]
    sender_graphs: ClassVar[Mapping[str, int | None]]

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything that decides which bits mean which latents."""

    def latents_from(self, outputs: Mapping[str, NDArray[Any]]) -> Any:
        """Take latents out of the first item of what the sender's graphs gave."""

    def write(self, latents: Any, quality: int) -> list[Layer]:
        """Encode latents; symbols that no table codes are lost."""

    def kept(self, latents: Any, quality: int) -> Any:
        """Return what a receiver will decode."""

    def parts(self, bodies: Mapping[int, bytes]) -> Sequence[int | None]:
        """Return what is decoded apart: layers that do not need each other, or None for all.

        Latents of several parts are joined by ``|``. Raises BitstreamError where none has arrived.
        """

    def read(self, bodies: Mapping[int, bytes], header: StreamHeader, part: int | None) -> Any:
        """Decode one of the ``parts`` from the bodies of layers by their ids.

        Raises:
            BitstreamError: it has not arrived, or its bytes are no such latents.
        """

    def graph_inputs(self, latents: Any) -> Arrays:
        """Return what a receiver's graphs take of latents, with a batch axis of one."""


@dataclass(frozen=True)
class MapCodec:
    """One layer: symbols (C, H / stride, W / stride) and their hyper-latent."""

    compact: ClassVar[bool] = False
    sender_graphs: ClassVar[Mapping[str, int | None]] = {ENCODER: None}
    coder: Coder
    stride: int

    @property
    def fingerprint(self) -> bytes:
        """Of the coder."""
        return self.coder.fingerprint

    def latents_from(self, outputs: Mapping[str, NDArray[Any]]) -> Latents:
        """Take latents out of the encoder's outputs."""
        return Latents(outputs["symbols"][0], outputs["hyper"][0])

    def write(self, latents: Latents, quality: int) -> list[Layer]:
        """Encode latents into one layer."""
        return [Layer(BASE_LAYER, self.coder.encode(latents, quality - 1))]

    def kept(self, latents: Latents, quality: int) -> Latents:
        """Return what a receiver will decode."""
        return self.coder.keep_coded(latents, quality - 1)

    def parts(self, bodies: Mapping[int, bytes]) -> Sequence[int | None]:
        """Return the one part that there is."""
        return (None,)

    def read(self, bodies: Mapping[int, bytes], header: StreamHeader, part: int | None) -> Latents:
        """Decode the latents of a header's network input."""
        height, width = _cells(header, self.stride)
        return self.coder.decode(_base(bodies), height, width, header.quality - 1)

    def graph_inputs(self, latents: Latents) -> Arrays:
        """Return ``symbols`` and ``hyper``."""
        return {"symbols": latents.symbols[None], "hyper": latents.hyper[None]}


@dataclass(frozen=True)
class DescribedMapCodec:
    """Two layers: a descriptor (D,) of the whole picture, and a map with its hyper-latent."""

    compact: ClassVar[bool] = False
    sender_graphs: ClassVar[Mapping[str, int | None]] = {
        DESCRIBER: DESCRIPTOR_LAYER,
        ENCODER: MAP_LAYER,
    }
    coder: DescribedMapCoder
    stride: int

    @property
    def fingerprint(self) -> bytes:
        """Of the coder."""
        return self.coder.fingerprint

    def latents_from(self, outputs: Mapping[str, NDArray[Any]]) -> DescribedLatents:
        """Take latents out of the outputs of the graphs that have run."""
        names = DescribedLatents._fields
        return DescribedLatents(*(outputs[n][0] if n in outputs else None for n in names))

    def write(self, latents: DescribedLatents, quality: int) -> list[Layer]:
        """Encode what there is into a layer each."""
        return [Layer(*body) for body in self.coder.encode(latents, quality - 1).items()]

    def kept(self, latents: DescribedLatents, quality: int) -> DescribedLatents:
        """Return what a receiver will decode."""
        return self.coder.keep_coded(latents, quality - 1)

    def parts(self, bodies: Mapping[int, bytes]) -> Sequence[int | None]:
        """Return those of the two layers that have arrived; raises BitstreamError for neither."""
        known = [number for number in (DESCRIPTOR_LAYER, MAP_LAYER) if number in bodies]
        if not known:
            expected = f"layer {DESCRIPTOR_LAYER} or {MAP_LAYER}"
            found = f"{_held(bodies)}: the stream was cut"
            raise BitstreamError("descriptor or map", expected=expected, found=found)
        return known

    def read(
        self, bodies: Mapping[int, bytes], header: StreamHeader, part: int | None
    ) -> DescribedLatents:
        """Decode one layer; raises BitstreamError."""
        body, quality = _layer(bodies, part), header.quality - 1
        if part == DESCRIPTOR_LAYER:
            return DescribedLatents(self.coder.decode_descriptor(body, quality), None, None)
        found = self.coder.decode_map(body, *_cells(header, self.stride), quality)
        return DescribedLatents(None, *found)

    def graph_inputs(self, latents: DescribedLatents) -> Arrays:
        """Return every array that there is."""
        return {k: v[None] for k, v in latents._asdict().items() if v is not None}


@dataclass(frozen=True)
class LayersCodec:
    """Several layers of fixed shapes; of a cut stream, the first ones."""

    compact: ClassVar[bool] = True
    sender_graphs: ClassVar[Mapping[str, int | None]] = {ENCODER: None}
    coder: LayeredCoder

    @property
    def fingerprint(self) -> bytes:
        """Of the coder."""
        return self.coder.fingerprint

    def latents_from(self, outputs: Mapping[str, NDArray[Any]]) -> LayeredLatents:
        """Take the layers out of the encoder's outputs."""
        return tuple(outputs[layer_name(place)][0] for place in range(len(self.coder.shapes)))

    def write(self, latents: LayeredLatents, quality: int) -> list[Layer]:
        """Encode latents into one layer each."""
        bodies = self.coder.encode(latents, quality - 1)
        return [Layer(*pair) for pair in zip(self.coder.layer_ids, bodies, strict=True)]

    def kept(self, latents: LayeredLatents, quality: int) -> LayeredLatents:
        """Return what a receiver will decode."""
        return tuple(self.coder.keep_coded(latents, quality - 1))

    def parts(self, bodies: Mapping[int, bytes]) -> Sequence[int | None]:
        """Return the one part that there is: a layer's tables may need those before it."""
        return (None,)

    def read(
        self, bodies: Mapping[int, bytes], header: StreamHeader, part: int | None
    ) -> LayeredLatents:
        """Decode the layers that are there, up to the first that is not."""
        present = [_base(bodies)]
        for number in self.coder.layer_ids[1:]:
            if number not in bodies:
                break
            present.append(bodies[number])
        return tuple(self.coder.decode(present, header.quality - 1))

    def graph_inputs(self, latents: LayeredLatents) -> Arrays:
        """Return every layer, zeros where one is missing, and how many there are."""
        arrays = fill_layers(latents, self.coder.shapes)
        inputs: Arrays = {layer_name(k): array[None] for k, array in enumerate(arrays)}
        return inputs | {LAYER_COUNT: np.array([len(latents)], np.int64)}


def codec_from_arrays(
    card: ModelCard, arrays: Mapping[str, NDArray[Any]], path: Path
) -> StreamCodec:
    """Rebuild a card's codec from the arrays of ``tables.npz``.

    Raises:
        ModelError: the arrays (of ``path``) are damaged, or are not the card's.
    """
    if card.codec in LAYERED_CODERS:
        return _layers_codec(card, layered_coder_from_arrays(card.codec, arrays), path)
    if card.codec == DESCRIBED_MAP:
        described = DescribedMapCoder.from_arrays(arrays)
        _compare(card, described, path)
        return DescribedMapCodec(described, _checked_stride(card, described.map, path))
    coder = coder_from_arrays(card.codec, arrays)
    _compare(card, coder, path)
    return MapCodec(coder, _checked_stride(card, coder, path))


def _checked_stride(card: ModelCard, coder: Coder, path: Path) -> int:
    """Return the stride of a map's latents, whose coder must be the card's; raises ModelError."""
    latents, hyper = card.latents, card.hyper_latents
    if latents is None or hyper is None:
        raise ModelError(f"{path}: codec {card.codec} needs latents and hyper_latents in the card")
    for name, expected, found in (
        ("channels", latents.channels, coder.channels),
        ("hyper-channels", hyper.channels, coder.hyper_channels),
        ("hyper-stride", hyper.stride, latents.stride * coder.hyper_step),
    ):
        if found != expected:
            raise ModelError(f"{path}: expected {name} {expected}, found {found}")
    return latents.stride


def _layers_codec(card: ModelCard, coder: LayeredCoder, path: Path) -> LayersCodec:
    _compare(card, coder, path)
    if card.layers != tuple(coder.shapes):
        raise ModelError(f"{path}: expected layers {card.layers}, found {coder.shapes}")
    return LayersCodec(coder)


def _compare(card: ModelCard, coder: Coder | DescribedMapCoder | LayeredCoder, path: Path) -> None:
    for name, expected, found in (
        ("fingerprint", card.fingerprint, coder.fingerprint.hex()),
        ("qualities", card.qualities, coder.qualities),
    ):
        if found != expected:
            raise ModelError(f"{path}: expected {name} {expected}, found {found}")


def layer_name(place: int) -> str:
    """Name of a layer in the graphs."""
    return f"layer{place}"


def fill_layers(
    latents: Sequence[NDArray[np.int32]], shapes: Sequence[tuple[int, ...]]
) -> LayeredLatents:
    """Put zeros where layers are missing."""
    missing = (np.zeros(shape, np.int32) for shape in shapes[len(latents) :])
    return (*latents, *missing)


def _cells(header: StreamHeader, stride: int) -> tuple[int, int]:
    """Height and width of a map of a header's network input."""
    return header.input_height // stride, header.input_width // stride


def _base(bodies: Mapping[int, bytes]) -> bytes:
    if BASE_LAYER not in bodies:
        raise BitstreamError("base layer", expected="layer 0", found="none: the stream was cut")
    return bodies[BASE_LAYER]


def _layer(bodies: Mapping[int, bytes], layer: int | None) -> bytes:
    if layer is None or layer not in bodies:
        raise BitstreamError(
            "layer",
            expected=f"layer {layer}, which this question is answered from",
            found=f"{_held(bodies)}: the stream was cut, or encoded for other tasks",
        )
    return bodies[layer]


def _held(bodies: Mapping[int, bytes]) -> str:
    return ", ".join(map(str, sorted(bodies))) or "none"
