"""The stage of training that fits a tap, and, where asked for, tunes the network's tail."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.fit.examples import ExampleSource, Window
from cdvision.fit.network import SplitNetwork
from cdvision.fit.regression import start_from_regression
from cdvision.networks.fitted_tap import FittedTap, TapShape
from cdvision.training.plan import Plan
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

LEARNING_RATE, SOLVED_RATE, TAIL_RATE = 1e-3, 2e-4, 2e-5
WEIGHT_DECAY = 1e-4
SPREAD_CROPS = 256  # from which the spread of each feature is measured
LEAST_SPREAD = 1e-3  # of the mean one: features that never move count as if they moved so much


class FeatureScale(nn.Module):
    """How much each feature varies: errors are in its unit, or the loudest would win."""

    variance: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(features))

    @torch.no_grad()
    def measure(self, window: Window, rng: np.random.Generator) -> None:
        """Measure on crops of a window."""
        batch = window.batch(SPREAD_CROPS, rng)
        # Cells beyond a photo are zeros of padding, which the network never saw.
        variance = batch.features.movedim(1, -1)[batch.counts[:, 0] > 0].double().var(0)
        self.variance.copy_(variance.clamp_min(LEAST_SPREAD * float(variance.mean()) + 1e-12))

    def error(self, found: Tensor, target: Tensor, counts: Tensor) -> Tensor:
        """Mean squared error over features and cells that count, in units of the variance."""
        squared = (found.float() - target).square() / self.variance[:, None, None]
        # At least 1: a batch of padding alone has error 0, not 0 / 0.
        return (squared * counts).sum() / (counts.sum() * len(self.variance)).clamp_min(1)


class TapStage(Stage):
    """Fits a tap to a network's features, and with ``tune_tail`` a copy of its tail to outputs."""

    name = "fit"

    def __init__(
        self,
        shape: TapShape,
        source: ExampleSource,
        network: SplitNetwork,
        plan: Plan,
        *,
        tune_tail: bool = False,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.source, self.network, self.plan = source, network, plan
        layout: dict[str, Any] = {"device": plan.device, "memory_format": torch.channels_last}
        self.tap = FittedTap(shape).to(**layout)
        self.average = WeightAverage(self.tap)
        self.scale = FeatureScale(shape.features).to(plan.device)
        self.tail: nn.Module | None = None
        tap = self.tap
        # What starts from a regression learns slowly, or the start would be lost.
        solved = [*tap.opening.parameters(), *tap.closing.parameters(), tap.gain, tap.shift]
        groups: list[dict[str, Any]] = [
            {"params": solved, "lr": SOLVED_RATE},
            {"params": list(tap.blocks.parameters()), "lr": LEARNING_RATE},
        ]
        if tune_tail and isinstance(network.tail, nn.Module):
            self.tail = copy.deepcopy(network.tail).requires_grad_(True)
            groups.append({"params": list(self.tail.parameters()), "lr": TAIL_RATE})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Measure the features and set the tap by regression."""
        window = self.source.window(0)
        self.scale.measure(window, rng)
        start_from_regression(self.tap, window.batch, self.scale.variance.sqrt(), rng)
        self.average.restart(self.tap)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        tail = {} if self.tail is None else {"tail": self.tail}
        return {"tap": self.tap, "average": self.average, "scale": self.scale, **tail}

    def result(self) -> nn.Module:
        """Return tap and tail under the names that the tap's graphs have for them."""
        tail = {} if self.tail is None else {"tail": self.tail}
        return nn.ModuleDict({"tap": self.average.network, **tail})

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare the tap's features with the network's, and a tuned tail's outputs with its."""
        # The average counts the steps, and is in the checkpoint: a resumed run has its window.
        window = self.source.window(int(self.average.taken))
        batch = window.batch(self.plan.batch, rng).to(self.plan.device)
        latents = batch.latents.contiguous(memory_format=torch.channels_last)
        with self.plan.autocast():
            found = self.tap(latents, batch.qualities)
        terms = {"features": self.scale.error(found, batch.features, batch.counts)}
        if self.tail is not None:
            with torch.no_grad():
                targets = self.network.outputs(batch.features)
            with self.plan.autocast():
                outputs = self.tail(found.float())
            terms["outputs"] = output_error(outputs, targets)
        return torch.stack(list(terms.values())).sum(), terms

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.tap)


def output_error(found: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Mean squared error of named outputs, each in units of its own variance."""
    errors = [
        F.mse_loss(found[name].float(), target) / target.var().clamp_min(1e-12)
        for name, target in targets.items()
    ]
    return torch.stack(errors).mean()
