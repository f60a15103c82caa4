"""How wide DICM's networks are: the paper's numbers, and a tiny set for tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DicmWidths:
    """Channels of every part.

    Attributes:
        features: of the backbone at the split point, 1/4.
        redundancy: between RE's convolutions.
        filtered: of RE's latent y1 at 1/32.
        filtered_hyper: of the hyper-latent of y1, at 1/128; ours, the paper sends no y1.
        narrow: of the codec's middle.
        latents: of the codec's latent y2 at 1/16, a multiple of 8.
        hyper: of the hyper-latent z at 1/64.
        tokens: of the hyper-encoder's transformer.
        heads: of its attention.
    """

    features: int = 256
    redundancy: int = 128
    filtered: int = 192
    filtered_hyper: int = 24
    narrow: int = 128
    latents: int = 192
    hyper: int = 192
    tokens: int = 384
    heads: int = 6


PAPER = DicmWidths()
TINY = DicmWidths(
    features=16, redundancy=16, filtered=16, filtered_hyper=8,
    narrow=8, latents=16, hyper=8, tokens=16, heads=2,
)  # fmt: skip


def backbone_widths(backbone: str) -> DicmWidths:
    """Return the widths of the networks on a backbone: tiny ones on the tiny one."""
    return TINY if backbone == "tiny" else PAPER


# Strides in pixels of the network input; every profile's layers have them at any width.
FEATURES_STRIDE, FILTERED_STRIDE, LATENTS_STRIDE = 4, 32, 16
FILTERED_HYPER_STRIDE, HYPER_STRIDE = 128, 64
