"""Between an entropy coder and everything else: a graph's arrays, latents, and layers of a stream.

::

    encoder's outputs ─▶ latents ─ write ─▶ layers of a stream ─ read ─▶ latents ─▶ graphs' inputs

A codec of maps writes one layer, of any size of image. A codec of faces writes several, of one
size; a stream that was cut after any of them can be read.
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
from cdvision.package.card import ModelCard
from cdvision.package.codecs import (
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
LAYER_COUNT = "layers"  # graph input: how many layers each item of a batch has


class StreamCodec(Protocol):
    """What models and streams ask of a codec. Qualities count from 1, as in a header."""

    compact: ClassVar[bool]

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything that decides which bits mean which latents."""

    def latents_from(self, outputs: Mapping[str, NDArray[Any]]) -> Any:
        """Take latents out of the first item of what the encoder's graph gave."""

    def write(self, latents: Any, quality: int) -> list[Layer]:
        """Encode latents; symbols that no table codes are lost."""

    def kept(self, latents: Any, quality: int) -> Any:
        """Return what a receiver will decode."""

    def read(self, bodies: Mapping[int, bytes], header: StreamHeader) -> Any:
        """Decode latents from the bodies of layers by their ids; raises BitstreamError."""

    def graph_inputs(self, latents: Any) -> Arrays:
        """Return what a receiver's graphs take of latents, with a batch axis of one."""


@dataclass(frozen=True)
class MapCodec:
    """One layer: symbols (C, H / stride, W / stride) and their hyper-latent."""

    compact: ClassVar[bool] = False
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

    def read(self, bodies: Mapping[int, bytes], header: StreamHeader) -> Latents:
        """Decode the latents of a header's network input."""
        height, width = header.input_height // self.stride, header.input_width // self.stride
        return self.coder.decode(_base(bodies), height, width, header.quality - 1)

    def graph_inputs(self, latents: Latents) -> Arrays:
        """Return ``symbols`` and ``hyper``."""
        return {"symbols": latents.symbols[None], "hyper": latents.hyper[None]}


@dataclass(frozen=True)
class LayersCodec:
    """Several layers of fixed shapes; of a cut stream, the first ones."""

    compact: ClassVar[bool] = True
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

    def read(self, bodies: Mapping[int, bytes], header: StreamHeader) -> LayeredLatents:
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
    coder, latents, hyper = coder_from_arrays(card.codec, arrays), card.latents, card.hyper_latents
    if latents is None or hyper is None:
        raise ModelError(f"{path}: codec {card.codec} needs latents and hyper_latents in the card")
    _compare(card, coder, path)
    for name, expected, found in (
        ("channels", latents.channels, coder.channels),
        ("hyper-channels", hyper.channels, coder.hyper_channels),
        ("hyper-stride", hyper.stride, latents.stride * coder.hyper_step),
    ):
        if found != expected:
            raise ModelError(f"{path}: expected {name} {expected}, found {found}")
    return MapCodec(coder, latents.stride)


def _layers_codec(card: ModelCard, coder: LayeredCoder, path: Path) -> LayersCodec:
    _compare(card, coder, path)
    if card.layers != tuple(coder.shapes):
        raise ModelError(f"{path}: expected layers {card.layers}, found {coder.shapes}")
    return LayersCodec(coder)


def _compare(card: ModelCard, coder: Coder | LayeredCoder, path: Path) -> None:
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


def _base(bodies: Mapping[int, bytes]) -> bytes:
    if BASE_LAYER not in bodies:
        raise BitstreamError("base layer", expected="layer 0", found="none: the stream was cut")
    return bodies[BASE_LAYER]
