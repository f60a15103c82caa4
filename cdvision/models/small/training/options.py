"""What `cdvision train small` can be told beside its plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MapOptions:
    """Learning rates of `small`'s map.

    Parts that start from a good solution learn slowly, or the first hundred steps destroy it.

    Attributes:
        learning_rate: of what starts from nothing.
        solved_rate: of what starts from a regression.
        pretrained_rate: of the encoder's front and of the tails.
    """

    learning_rate: float = 5e-4
    solved_rate: float = 1e-4
    pretrained_rate: float = 8e-5
