"""What a user can choose in the stages of DICM; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cdvision.errors import CdvisionError
from cdvision.training.checked_options import CheckedOptions, Count, Ends, Range, Rate

Negatives = Annotated[int, Range(2)]
QUEUE = 65_536  # keys; the paper's, for batches of 256


@dataclass(frozen=True)
class StartOptions(CheckedOptions):
    """Where a stage begins.

    Attributes:
        start: finished run of an earlier stage, or a package (folder or name).
        backbone: without --start.
        weights: without --start: a file, or a name of torchvision's; else random.
    """

    start: str | None = None
    backbone: Literal["resnet50-msra", "resnet50", "resnet50v2"] = "resnet50-msra"
    weights: str | None = None


@dataclass(frozen=True)
class CropOptions(CheckedOptions):
    """Which crops of which photos a stage reads.

    Attributes:
        split_table: table (csv) with columns file and split: files named there count where split is
            train.
        side: pixels of a square crop.
    """

    split_table: Path | None = None
    side: Annotated[int, Range(64)] = 224

    multiple: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side % self.multiple:
            raise CdvisionError(
                f"--side: expected a multiple of {self.multiple}, found {self.side}"
            )


@dataclass(frozen=True)
class CodecCropOptions(CropOptions):
    """Crops for a codec, whose hyper-latent stands at 1/64."""

    side: Annotated[int, Range(64)] = 256

    multiple: ClassVar[int] = 64


@dataclass(frozen=True)
class RateOptions(CheckedOptions):
    """Which rates a stage aims at.

    Attributes:
        bpp: steer quality 1 and 8 to these bits per pixel, the others between (default: fixed
            multipliers).
    """

    bpp: Ends | None = None

    @property
    def targets(self) -> tuple[float, ...] | None:
        """Bits per pixel of each quality; None for fixed multipliers."""
        from cdvision.training.rate_control import targets_between

        return None if self.bpp is None else targets_between(*self.bpp)


@dataclass(frozen=True)
class SenderOptions(CheckedOptions):
    """How a codec of Detectron2's zoo is trained.

    Attributes:
        bpp: steer quality 1 and 8 to these bits per coded pixel, the others between.
        zoom: photos are enlarged by a factor between these before a network looks at them.
        stage_weights: of the errors of res2, res3 and res4.
        learning_rate: of what starts from nothing.
        solved_rate: of what starts from a regression.
    """

    bpp: Ends = (0.1, 1.2)
    zoom: Annotated[tuple[float, float], Range(1)] = (1.0, 2.5)
    stage_weights: Annotated[tuple[float, float, float], Range(0)] = (0.5, 0.5, 1.0)
    learning_rate: Rate = 5e-4
    solved_rate: Rate = 5e-5

    @property
    def targets(self) -> tuple[float, ...]:
        """Bits per coded pixel of each quality."""
        from cdvision.training.rate_control import targets_between

        return targets_between(*self.bpp)


@dataclass(frozen=True)
class SenderData(CheckedOptions):
    """Which photos a codec of the zoo is trained on.

    Attributes:
        split_table: table (csv) with columns file and split: files named there count where split is
            train.
    """

    split_table: Path | None = None


@dataclass(frozen=True)
class ContrastiveOptions(CheckedOptions):
    """How the backbone learns by contrast.

    Attributes:
        queue: negatives.
        learning_rate: of SGD, for 256 photos a step; scaled with the batch.
    """

    queue: Negatives = QUEUE
    learning_rate: Rate = 0.03


@dataclass(frozen=True)
class RedundancyOptions(RateOptions):
    """How the RE networks are trained.

    Attributes:
        feature_losses: errors of f2 and the stages behind, not L1. Not in the paper; it is what
            answers depend on.
        head_start: begin as principal components, not at random; for a new run only.
        learning_rate: of Adam.
    """

    feature_losses: bool = False
    head_start: bool = False
    learning_rate: Rate = 1e-4


@dataclass(frozen=True)
class JointOptions(RateOptions):
    """How backbone and RE networks are trained together.

    Attributes:
        distil: towards the network it began as, not InfoNCE.
        queue: negatives of InfoNCE.
        learning_rate: of SGD for 256 photos a step, or of Adam with --distil (default: 0.001, or
            0.0001 with --distil).
    """

    distil: bool = False
    queue: Negatives = QUEUE
    learning_rate: Rate | None = None

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or (1e-4 if self.distil else 1e-3)


@dataclass(frozen=True)
class CodecOptions(RateOptions):
    """How the codec is trained.

    Attributes:
        normalised: errors over variance, not the paper's weights, which suit the activations of
            its own network.
        learning_rate: of AdamW.
    """

    normalised: bool = False
    learning_rate: Rate = 1e-4


@dataclass(frozen=True)
class DetectorShape(CheckedOptions):
    """How large a detector is.

    Attributes:
        width: channels of the pyramid and of the mask head.
        representation: width of the box head.
        finest: stride of the finest stage that the pyramid reads.
        masks: 3x3 convolutions of the mask head; 0: no masks.
        samples: RoIs of an image that the box head trains on.
    """

    width: Count = 256
    representation: Count = 1024
    finest: Literal[4, 8] = 4
    masks: Annotated[int, Range(0)] = 4
    samples: Count = 512


@dataclass(frozen=True)
class HeadsData(CheckedOptions):
    """What heads learn from.

    Attributes:
        features: as the front gives them, or as they arrive at random qualities.
        boxes: COCO-format json, for detection (and masks).
        boxes_photos: its photos: folder or tar; may be given several times.
        classes: csv with file and a class, for classification.
        classes_photos: its photos: folder or tar; may be given several times.
        class_column: of the csv.
        short: pixels, short side.
        long: pixels, long side.
    """

    features: Literal["pixels", "stream"] = "stream"
    boxes: Path | None = None
    boxes_photos: tuple[Path, ...] = ()
    classes: Path | None = None
    classes_photos: tuple[Path, ...] = ()
    class_column: str = "imagenet_class"
    short: Count = 256
    long: Count = 384

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.boxes is None and self.classes is None:
            raise CdvisionError("heads: expected --boxes JSON or --classes CSV, found neither")


@dataclass(frozen=True)
class HeadsOptions(CheckedOptions):
    """How heads are trained.

    Attributes:
        train_tail: fine-tune the tail too, at a tenth of the rate.
        learning_rate: of AdamW.
    """

    train_tail: bool = False
    learning_rate: Rate = 2e-4
