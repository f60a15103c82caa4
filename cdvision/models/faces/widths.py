"""How wide the face networks and the `hsc` codec are: ours, published ones, and tiny for tests."""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.errors import CdvisionError

CONSTANT_SIDE = 4  # pixels of the generator's learned constant
TRUNKS = ("mobilenet_v2", "resnet50v2", "tiny")
BASE_SIDE = 2  # cells a side of the base latent
IMAGE_SIDE = 32  # the most that a side of the rows' "image" has


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
        # As square as the values allow: convolutions need neighbours on both axes.
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
        # Equal slices: one shape of network serves all of them.
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
