"""Fidelity of features: errors of res2, res3 and res4 over real bytes, beside pixels' codecs.

Frozen networks of Detectron2's zoo see what arrives; nothing is trained but the codec. Pictures of
rivals are coded at the photo's own size, as a camera would, and enlarged as the zoo enlarges them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL.Image import Image, Resampling
from tqdm import tqdm

from cdvision.bench.bjontegaard import bd_rate
from cdvision.errors import CdvisionError
from cdvision.models.dicm.bench.true_network import MULTIPLE, ErrorSums, Size, TrueNetwork, zoo_size
from cdvision.models.dicm.map_graphs import RES2

if TYPE_CHECKING:
    from cdvision import Model
    from cdvision.evaluation.rivals import Rival

STAGES = ("res2", "res3", "res4")


@dataclass(frozen=True)
class Point:
    """One codec at one of its settings, over all photos."""

    codec: str
    setting: int
    short: int  # side at which networks see the photos, pixels
    mean_bytes: float  # of a photo, all of them
    bpp: float  # bits per pixel of the photos as they came
    errors: tuple[float, ...]  # of ``STAGES``, in units of variance

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON."""
        named = dict(zip(STAGES, (round(error, 4) for error in self.errors), strict=True))
        facts = {"codec": self.codec, "setting": self.setting, "short": self.short}
        return {**facts, "bytes": round(self.mean_bytes, 1), "bpp": round(self.bpp, 4), **named}


class FidelityBenchmark:
    """Measures a package of `dicm-re` or `dicm-light` and rivals on the same photos.

    Args:
        model: the package, on any engine.
        true: the network that its features are meant for.
        photos: as they came.
        shorts: short sides at which networks see them, pixels.
        rivals: picture codecs.
        qualities: of the model, from 1.
    """

    def __init__(
        self,
        model: Model,
        true: TrueNetwork,
        photos: Sequence[Image],
        *,
        shorts: Sequence[int],
        rivals: Sequence[Rival],
        qualities: Sequence[int],
    ) -> None:
        if RES2 not in model.card.tails:
            raise CdvisionError(
                f"model {model.name!r}: expected a tail {RES2!r}, as dicm-re has it"
            )
        self.enlarges = "resize_multiple" in model.card.tails[RES2].settings
        self.true = true
        self.model, self.photos, self.shorts = model, photos, shorts
        self.rivals, self.qualities = rivals, qualities

    def run(self) -> list[Point]:
        """Return a point for every codec, setting and short side."""
        sums: dict[tuple[str, int, int], ErrorSums] = {}
        sizes: dict[tuple[str, int, int], int] = {}
        pixels = sum(photo.width * photo.height for photo in self.photos)
        for photo in tqdm(self.photos, unit="photo", disable=None):
            for short in self.shorts:
                size = zoo_size(photo.size, short)
                wanted = self.true.stages_of_photo(photo, size)
                for codec, setting, found, count in self._coded(photo, size):
                    key = codec, setting, short
                    sums.setdefault(key, ErrorSums()).add(found, wanted)
                    sizes[key] = sizes.get(key, 0) + count
        return [
            Point(
                *key, sizes[key] / len(self.photos), 8 * sizes[key] / pixels, tuple(total.values())
            )
            for key, total in sums.items()
        ]

    def _coded(
        self, photo: Image, size: Size
    ) -> Iterator[tuple[str, int, list[torch.Tensor], int]]:
        for quality in self.qualities:
            bits, features = self._sent(photo, size, quality)
            yield self.model.name, quality, self.true.stages_of_features(features), len(bits)
        for rival in self.rivals:
            for setting in rival.qualities:
                coded = rival.encode(photo, setting)
                stages = self.true.stages_of_photo(rival.decode(coded), size)
                yield rival.name, setting, stages, len(coded)

    def _sent(self, photo: Image, size: Size, quality: int) -> tuple[bytes, np.ndarray[Any, Any]]:
        """Return the stream of a photo, and the features that a network of that size gets."""
        if self.enlarges:
            bits = self.model.encode(photo, quality)
            return bits, self.model.open(bits).features(RES2, size=size)
        long = -(-max(size) // MULTIPLE) * MULTIPLE
        enlarged = photo.resize(size, Resampling.BILINEAR)
        bits = self.model.encode(enlarged, quality, size=long)
        return bits, self.model.open(bits).features(RES2)


def bytes_against(points: Sequence[Point], test: str, anchor: str, short: int, stage: str) -> float:
    """Return by how many percent the test's bytes differ at equal errors of a stage.

    The rate is averaged over the logarithm of the error, where both curves have points. Raises
    CdvisionError where they share too little.
    """
    place = STAGES.index(stage)

    def curve(codec: str) -> tuple[list[float], list[float]]:
        found = [p for p in points if (p.codec, p.short) == (codec, short)]
        return [p.mean_bytes for p in found], [float(-np.log(p.errors[place])) for p in found]

    return bd_rate(*curve(anchor), *curve(test))
