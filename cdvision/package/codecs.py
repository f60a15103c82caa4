"""The codecs by the number that stands in a stream's header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cdvision.entropy.hyperprior import HyperpriorCoder
from cdvision.entropy.layered_coder import LayeredCoder
from cdvision.errors import ModelError
from cdvision.models.dicm.receiver.coder import CheckerboardCoder
from cdvision.models.faces.receiver.hsc import HscCoder
from cdvision.models.faces.receiver.style_layers import StyleLayersCoder

HYPERPRIOR, CHECKERBOARD, HSC, SFIC_STYLE, DESCRIBED_MAP = 1, 2, 3, 4, 5
Coder = HyperpriorCoder | CheckerboardCoder
CODERS: Mapping[int, type[Coder]] = {HYPERPRIOR: HyperpriorCoder, CHECKERBOARD: CheckerboardCoder}
LAYERED_CODERS: Mapping[int, type[LayeredCoder]] = {
    HSC: HscCoder,
    SFIC_STYLE: StyleLayersCoder,
}
"""Codecs of several layers and of one input size; the others write one layer, of any size."""


def coder_from_arrays(codec: int, arrays: Mapping[str, NDArray[Any]]) -> Coder:
    """Rebuild the coder of a codec from ``tables.npz``; raises ModelError."""
    if codec not in CODERS:
        known = ", ".join(map(str, CODERS))
        raise ModelError(f"unknown codec {codec}: this version knows {known}; update cdvision")
    return CODERS[codec].from_arrays(arrays)


def layered_coder_from_arrays(codec: int, arrays: Mapping[str, NDArray[Any]]) -> LayeredCoder:
    """Rebuild the coder of a codec of several layers; raises ModelError."""
    if codec not in LAYERED_CODERS:
        known = ", ".join(map(str, LAYERED_CODERS))
        raise ModelError(f"codec {codec} has no layers of faces: expected one of {known}")
    return LAYERED_CODERS[codec].from_arrays(arrays)
