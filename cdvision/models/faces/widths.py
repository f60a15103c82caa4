"""How wide the face networks are: ours, StyleGAN2's own, and a tiny set for tests."""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import CdvisionError

CONSTANT_SIDE = 4  # pixels of the generator's learned constant
TRUNKS = ("mobilenet_v2", "resnet50v2", "tiny")


@dataclass(frozen=True)
class FaceWidths:
    """Sizes of generator, inversion encoder and attribute head."""

    resolution: int  # side of a face in pixels, a power of two of at least 8
    style: int  # values of a W+ row
    base: int  # channels at side s are min(cap, base // s)
    cap: int  # the most channels at any side
    mapping_layers: int  # of the mapping network z -> w
    feature_side: int  # of the mid-level feature input F
    trunk: str = "mobilenet_v2"  # of the inversion encoder, one of TRUNKS
    trunk_side: int = 128  # pixels to which the encoder resizes a face before its trunk
    head: int = 256  # width of the encoder's style head and of the attribute head's hidden layer
    attributes: int = 40  # answers of the attribute head
    basic_rows: int = 4  # of the first layer of a stream; they alone must carry the attributes

    def __post_init__(self) -> None:
        side = self.resolution
        # A power of two shares no bit with the number before it.
        if side < 2 * CONSTANT_SIDE or side & (side - 1):
            raise CdvisionError(
                "resolution of a face must be a power of two of at least "
                f"{2 * CONSTANT_SIDE}, found {side}"
            )
        if self.feature_side not in self.sides[:-1]:
            raise CdvisionError(
                f"feature_side must be one of {self.sides[:-1]} at {side} pixels, "
                f"found {self.feature_side}"
            )
        if self.trunk not in TRUNKS:
            raise CdvisionError(f"trunk must be one of {TRUNKS}, found {self.trunk!r}")

    @property
    def rows(self) -> int:
        """W+ rows: two a side, 12 at 128 pixels."""
        return 2 * (self.resolution.bit_length() - 1) - 2

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the generator's activations: 4, 8, ... resolution."""
        return tuple(1 << power for power in range(2, self.resolution.bit_length()))

    @property
    def feature_channels(self) -> int:
        """Channels of F."""
        return self.channels(self.feature_side)

    def channels(self, side: int) -> int:
        """Return the generator's channels at ``side`` pixels."""
        return min(self.cap, self.base // side)


FACE = FaceWidths(
    resolution=128, style=256, base=2048, cap=192, mapping_layers=4, feature_side=16,
)  # fmt: skip
FACE_TINY = FaceWidths(
    resolution=64, style=32, base=256, cap=16, mapping_layers=2, feature_side=8,
    trunk="tiny", trunk_side=64, head=16,
)  # fmt: skip
