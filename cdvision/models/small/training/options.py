"""What a user can choose in the stages of `small`; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from cdvision.training.checked_options import CheckedOptions, Count, Rate
from cdvision.training.plan import LengthOptions


@dataclass(frozen=True)
class MapOptions(CheckedOptions):
    """Learning rates of `small`'s map.

    Parts that start from a good solution learn slowly, or the first hundred steps destroy it.

    Attributes:
        learning_rate: of what starts from nothing.
        solved_rate: of what starts from a regression.
        pretrained_rate: of the encoder's front and of the tails.
    """

    learning_rate: Rate = 5e-4
    solved_rate: Rate = 1e-4
    pretrained_rate: Rate = 8e-5


@dataclass(frozen=True)
class MaskOptions(LengthOptions):
    """How the mask branch is trained.

    Attributes:
        short: short side of an input, pixels.
        long: long side of an input, pixels.
        learning_rate: of the branch.
    """

    batch: Count = 8
    short: Count = 256
    long: Count = 384
    learning_rate: Rate = 2e-3
