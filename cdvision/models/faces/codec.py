"""What every codec of faces does: package, graphs and reports need to know none of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor, nn

from cdvision.entropy.layered_coder import LayeredCoder


class StyleCodes(Protocol):
    """Codes from which a generator draws a batch of faces."""

    @property
    def rows(self) -> Tensor:
        """W+ rows (N, rows, style)."""

    @property
    def feature(self) -> Tensor:
        """F (N, C, side, side), the generator's activation at one layer."""


class DecodedFaces(NamedTuple):
    """What a receiver has of a batch.

    Attributes:
        rows: W+ rows (N, rows, style), those of missing layers predicted.
        feature: where the codec sends it, F (N, C, side, side), and (N,) bool whether it arrived.
    """

    rows: Tensor
    feature: tuple[Tensor, Tensor] | None = None


class FaceCodec(nn.Module, ABC):
    """Codes of faces to integers in layers, and back; qualities (N,) int64 count from 0.

    Integers are held in float, by the names that the coder gives them.
    """

    sends_feature: ClassVar[bool]

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each layer's integers, base layer first."""

    @abstractmethod
    def encode(self, codes: StyleCodes, quality: Tensor) -> dict[str, Tensor]:
        """Return the integers of every layer."""

    @abstractmethod
    def decode(self, latents: Mapping[str, Tensor], count: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode the first ``count`` (N,) layers of each face; the others may hold anything."""

    @abstractmethod
    def decode_base(self, base: Tensor, quality: Tensor) -> DecodedFaces:
        """Decode the base layer alone."""

    def feature_error(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Return the error of F, 1 where nothing was sent; only of a codec that sends it."""
        raise NotImplementedError(f"{type(self).__name__} sends no F")

    @abstractmethod
    def build_coder(self) -> LayeredCoder:
        """Freeze all probabilities into integers; raises ModelError where a sum may be inexact."""
