"""What a user can choose in the stages of the face models; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cdvision.errors import CdvisionError
from cdvision.training.checked_options import CheckedOptions, Ends, Range, Rate, Weight


@dataclass(frozen=True)
class FaceSource(CheckedOptions):
    """What is known of the faces, and of networks that are trained already.

    Attributes:
        labels: table (csv) of file, split and 0/1 attributes.
        start: finished run of an earlier stage, or a package (folder or name).
    """

    labels: Path | None = None
    start: str | None = None


@dataclass(frozen=True)
class NetworkOptions(CheckedOptions):
    """What a stage begins with where it goes on from nothing.

    Attributes:
        resolution: of new networks, in pixels.
        trunk: of new encoders.
        generator: your own StyleGAN2 as safetensors (see docs/faces.md).
        initial_weights: folder with the ImageNet weights of the trunk.
    """

    resolution: Annotated[int, Range(8)] = 128
    trunk: Literal["mobilenet_v2", "resnet50v2"] = "mobilenet_v2"
    generator: Path | None = None
    initial_weights: Path | None = None


@dataclass(frozen=True)
class PerceptualOptions(CheckedOptions):
    """How pictures are compared.

    Attributes:
        perceptual: ImageNet network of the perceptual loss (its weights: --initial-weights).
        initial_weights: folder with the ImageNet weights.
    """

    perceptual: Literal["mobilenet_v2", "resnet50v2", "none"] = "mobilenet_v2"
    initial_weights: Path | None = None


@dataclass(frozen=True)
class GeneratorOptions(CheckedOptions):
    """How the generator is trained against its discriminator.

    Attributes:
        learning_rate: of both players.
        r1: weight of R1.
        path: weight of path length regularisation; 0 leaves it out.
        mixing: how often a face gets two styles.
        augment: vary what the discriminator sees (needed for a few thousand faces).
    """

    learning_rate: Rate = 0.0025
    r1: Weight = 1.0
    path: Weight = 0.0
    mixing: Annotated[float, Range(0, 1)] = 0.9
    augment: bool = True


@dataclass(frozen=True)
class TrunkOptions(CheckedOptions):
    """How the encoder's trunk is tuned on attributes.

    Attributes:
        learning_rate: of the heads.
        trunk_rate: learning rate of the trunk.
    """

    learning_rate: Rate = 1e-3
    trunk_rate: Weight = 2e-4


@dataclass(frozen=True)
class InversionOptions(CheckedOptions):
    """How the encoder learns what the generator draws faces from.

    Attributes:
        tune_generator: train the generator too.
        drawn: share of faces that the generator draws, whose rows are known; it must be trained.
        freeze_trunk: of the encoder, train the heads only.
        freeze_encoder: train the generator only: codes stay, and so do codecs that were trained on
            them.
        trunk_rate: learning rate of the trunk.
        heads_rate: learning rate of the encoder's heads and of the attributes'.
        generator_rate: learning rate of the generator.
    """

    tune_generator: bool = False
    drawn: Annotated[float, Range(0, 0.9)] = 0.0
    freeze_trunk: bool = False
    freeze_encoder: bool = False
    trunk_rate: Rate = 5e-5
    heads_rate: Rate = 1e-3
    generator_rate: Rate = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.freeze_encoder and not self.tune_generator:
            raise CdvisionError("--freeze-encoder leaves nothing to train without --tune-generator")

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates by part; 0 freezes one."""
        return {
            "trunk": 0.0 if self.freeze_trunk or self.freeze_encoder else self.trunk_rate,
            "heads": 0.0 if self.freeze_encoder else self.heads_rate,
            "generator": self.generator_rate if self.tune_generator else 0.0,
        }


@dataclass(frozen=True)
class RowsOptions(CheckedOptions):
    """How rows learn to say what F says.

    Attributes:
        learning_rate: of Adam.
    """

    learning_rate: Rate = 1e-3


@dataclass(frozen=True)
class StyleLayersOptions(CheckedOptions):
    """How the codec of `sfic-style` is trained.

    Attributes:
        basic_bytes: basic layer, quality 1 and 8; a header comes on top.
        all_bytes: all three layers, quality 1 and 8.
        scales: what tells the scales of later layers; both are exact.
        learning_rate: of gains and tables, the largest.
    """

    basic_bytes: Ends = (12.0, 56.0)
    all_bytes: Ends = (60.0, 300.0)
    scales: Literal["tables", "transformer"] = "tables"
    learning_rate: Rate = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bytes(self.basic_bytes, self.all_bytes)


@dataclass(frozen=True)
class HscOptions(CheckedOptions):
    """How the codec of `hsc` is trained.

    The error of F is 1 if nothing is sent; that of rows is 1 at every quality at the start: it
    falls a hundredfold from the lowest to the highest, and each quality should count.

    Attributes:
        base_bytes: base layer's body, quality 1 and 8.
        all_bytes: both bodies, quality 1 and 8.
        widths: of the networks; those of the paper want a GPU to train and tens of ms to decode.
        attribute_weight: divergence of the attribute head's answers, after each layer.
        label_weight: cross-entropy of the base layer's answers with the labels.
        picture_weight: extension: compare pictures through the generator, on --initial-weights.
        learning_rate: of Adam.
    """

    base_bytes: Ends = (14.0, 76.0)
    all_bytes: Ends = (60.0, 370.0)
    widths: Literal["ours", "paper"] = "ours"
    attribute_weight: Weight = 10.0
    label_weight: Weight = 0.0
    picture_weight: Weight = 0.0
    learning_rate: Rate = 4e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bytes(self.base_bytes, self.all_bytes)


def check_bytes(first: tuple[float, float], every: tuple[float, float]) -> None:
    """Raise CdvisionError where bytes of the first layer and of all are no targets."""
    rising = 0 < first[0] < first[1] and every[0] < every[1]
    if not (rising and first[0] < every[0] and first[1] < every[1]):
        raise CdvisionError(
            "bytes: expected 0 < LOW < HIGH of the basic layer, and more than that of all layers, "
            f"found {first} and {every}"
        )
