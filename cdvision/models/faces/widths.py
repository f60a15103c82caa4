"""How wide the face networks are: ours, StyleGAN2's own, and a tiny set for tests."""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import CdvisionError

CONSTANT_SIDE = 4  # pixels of the generator's learned constant
TRUNKS = ("mobilenet_v2", "resnet50v2", "tiny")


@dataclass(frozen=True)
class FaceWidths:
    """Sizes of generator, inversion encoder and attribute head.

    Attributes:
        resolution: side of a face in pixels, a power of two of at least 8.
        style: values of a W+ row.
        base: channels at side s are ``min(cap, base // s)``.
        cap: the most channels at any side.
        mapping_layers: of the mapping network z -> w.
        feature_side: side of the mid-level feature input F.
        trunk: of the inversion encoder, one of ``TRUNKS``.
        trunk_side: pixels to which the encoder resizes a face before its trunk.
        head: width of the encoder's style head and of the attribute head's hidden layer.
        attributes: answers of the attribute head.
        basic_rows: W+ rows of the first layer of a stream; they alone must carry the attributes.
    """

    resolution: int
    style: int
    base: int
    cap: int
    mapping_layers: int
    feature_side: int
    trunk: str = "mobilenet_v2"
    trunk_side: int = 128
    head: int = 256
    attributes: int = 40
    basic_rows: int = 4

    def __post_init__(self) -> None:
        _check(self)

    @property
    def rows(self) -> int:
        """W+ rows: two a side, 12 at 128 pixels."""
        return 2 * (self.resolution.bit_length() - 1) - 2

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the generator's activations: 4, 8, ... resolution."""
        powers = range(2, self.resolution.bit_length())
        return tuple(1 << power for power in powers)

    @property
    def feature_channels(self) -> int:
        """Channels of F."""
        return self.channels(self.feature_side)

    def channels(self, side: int) -> int:
        """Return the generator's channels at ``side`` pixels."""
        return min(self.cap, self.base // side)


def _check(widths: FaceWidths) -> None:
    side = widths.resolution
    if side < 2 * CONSTANT_SIDE or side & (side - 1):
        raise CdvisionError(
            f"resolution of a face must be a power of two of at least {2 * CONSTANT_SIDE}, "
            f"found {side}"
        )
    if widths.feature_side not in widths.sides[:-1]:
        raise CdvisionError(
            f"feature_side must be one of {widths.sides[:-1]} at {side} pixels, "
            f"found {widths.feature_side}"
        )
    if widths.trunk not in TRUNKS:
        raise CdvisionError(f"trunk must be one of {TRUNKS}, found {widths.trunk!r}")


FACE = FaceWidths(
    resolution=128, style=256, base=2048, cap=192, mapping_layers=4, feature_side=16,
)  # fmt: skip
FACE_TINY = FaceWidths(
    resolution=64, style=32, base=256, cap=16, mapping_layers=2, feature_side=8,
    trunk="tiny", trunk_side=64, head=16,
)  # fmt: skip
