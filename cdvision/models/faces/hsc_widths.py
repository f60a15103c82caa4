"""How wide the `hsc` codec is: the method's own sizes, ours, and tiny ones for tests."""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import CdvisionError
from cdvision.models.faces.widths import FACE, FACE_TINY, FaceWidths

BASE_SIDE = 2  # cells a side of the base latent
IMAGE_SIDE = 32  # the most that a side of the rows' "image" has


@dataclass(frozen=True)
class HscWidths:
    """Sizes of the semantic network, the feature network and the slice networks."""

    rows: int  # W+ rows of a face
    style: int  # values of a row
    features: int  # channels of F
    feature_side: int  # cells a side of F
    base: int = 192  # channels of the base latent, which has 2x2 cells
    semantic: int = 192  # channels inside the semantic network
    dense: bool = False  # a linear map and a perceptron there, instead of convolutions
    detail: int = 192  # channels of the detail latent, at half of F's resolution
    slices: int = 8  # into which they are cut
    inner: int = 192  # channels inside the feature network
    blocks: int = 3  # residual blocks at constant size on each side of it
    side: int = 192  # channels of side information
    hidden: int = 96  # channels inside slice networks
    kernels: tuple[int, int, int] = (3, 3, 3)  # of the three convolutions of a slice network

    def __post_init__(self) -> None:
        if self.detail % self.slices:
            raise CdvisionError(f"hsc: {self.detail} channels do not cut into {self.slices} slices")
        if self.image_side < 2 * BASE_SIDE or self.feature_side < 4 * BASE_SIDE:
            raise CdvisionError(
                f"hsc: {self.values} values of style and a feature of {self.feature_side} cells a "
                "side are too few: expected a multiple of 16, and 8 cells or more"
            )
        if self.image_side < self.detail_side:
            raise CdvisionError("hsc: expected an image of rows no smaller than the detail's map")

    @property
    def values(self) -> int:
        """Style values of a face."""
        return self.rows * self.style

    @property
    def image_side(self) -> int:
        """Side of the rows' "image": the largest power of two up to 32 that divides them."""
        side = IMAGE_SIDE
        while self.values % side**2:
            side //= 2
        return side

    @property
    def image_channels(self) -> int:
        """Channels of the rows' "image"."""
        return int(self.values // self.image_side**2)

    @property
    def detail_side(self) -> int:
        """Cells a side of the detail latent."""
        return self.feature_side // 2

    @property
    def slice_channels(self) -> int:
        """Channels of one slice."""
        return self.detail // self.slices


def paper_widths(face: FaceWidths) -> HscWidths:
    """Return the method's own sizes for a generator: 192 channels, 8 slices of 24."""
    return HscWidths(face.rows, face.style, face.feature_channels, face.feature_side)


def our_widths(face: FaceWidths = FACE) -> HscWidths:
    """Return sizes that answer within 3 ms on one core, and train on a CPU."""
    # The method's semantic network takes 23 ms on one core to decode a face's rows, at half the
    # width still 11 ms; the dense one 0.3 ms. Rows of our encoder have 256 degrees of freedom.
    return HscWidths(
        face.rows, face.style, face.feature_channels, face.feature_side,
        base=64, semantic=256, dense=True, detail=96, inner=96, blocks=2,
        side=32, hidden=48, kernels=(3, 1, 1),
    )  # fmt: skip


def tiny_widths(face: FaceWidths = FACE_TINY, *, dense: bool = False) -> HscWidths:
    """Return sizes for tests."""
    return HscWidths(
        face.rows, face.style, face.feature_channels, face.feature_side,
        base=6, semantic=12, dense=dense, detail=8, slices=4, inner=8, blocks=1,
        side=5, hidden=6, kernels=(3, 3, 1),
    )  # fmt: skip
