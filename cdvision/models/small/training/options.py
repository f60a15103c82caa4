"""What a user can choose in the stages of `small`; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cdvision.training.checked_options import CheckedOptions, Count, Range, Rate
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
class ReceiverOptions(CheckedOptions):
    """Which detector a receiver runs, and how it is tuned.

    Attributes:
        detector: of the receiver (default: that of what it goes on from). Another one than that
            starts from its published weights, with a tap from regression.
        tap_rate: learning rate of the detector's tap.
        tail_rate: learning rate of its tail.
        tail_from: share of the run after which the tail learns too; a new tap needs time first.
        warmup_steps: steps over which learning rates rise; a new tap needs 500 and more.
    """

    detector: Literal["nanodet_plus_m", "nanodet_plus_m_1.5x"] | None = None
    tap_rate: Rate = 3e-4
    tail_rate: Rate = 8e-5
    tail_from: Annotated[float, Range(0, 1)] = 0.0
    warmup_steps: Count = 100


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
