"""The sizes of the published StyleGAN2 generators, whose parameter counts are known."""

from __future__ import annotations

from cdvision.models.faces.widths import FaceWidths


def stylegan2_widths(resolution: int, *, base: int = 32_768) -> FaceWidths:
    """Return the sizes of StyleGAN2 "config F" (base 16,384 is its smaller 256-pixel variant)."""
    return FaceWidths(
        resolution=resolution, style=512, base=base, cap=512, mapping_layers=8, feature_side=16,
        trunk_side=256, head=512,
    )  # fmt: skip
