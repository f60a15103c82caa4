"""What every stage of training is: the networks that it trains, and the loss of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer


class Stage(ABC):
    """One stage of training; ``opponent`` is the optimiser of a second player, who moves first."""

    name: str
    optimizer: Optimizer
    opponent: Optimizer | None = None

    def begin(self, rng: np.random.Generator) -> None:  # noqa: B027 (most have nothing to do)
        """Prepare a new run; a resumed one is not prepared again."""

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""

    @abstractmethod
    def result(self) -> nn.Module:
        """Return what the run is for."""

    @abstractmethod
    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, and its terms for the log.

        Draw from ``rng`` and torch's own generator only; ``done`` is the share of the run over.
        """

    def opponent_loss(
        self, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the second player's loss of one batch, as ``loss`` does."""
        raise NotImplementedError(f"{self.name} has one player")

    def after_step(self) -> None:  # noqa: B027 - most stages have nothing to do here
        """Follow the optimiser's step."""

    def watched(self) -> dict[str, Any]:
        """Return what the log tells beside the terms."""
        return {}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {}
