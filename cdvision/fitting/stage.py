"""The stage of training that fits a tap, and, where asked for, tunes the network's tail.

It starts from the best linear prediction from each cell's neighbourhood: one solve of normal
equations replaces the first minutes of training, which would find the same matrix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.fitting.examples import Batch, ExampleSource, Window
from cdvision.fitting.network import SplitNetwork
from cdvision.networks.fitted_tap import FittedTap, TapShape
from cdvision.training.plan import Plan
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

LEARNING_RATE, SOLVED_RATE, TAIL_RATE = 1e-3, 2e-4, 2e-5
WEIGHT_DECAY = 1e-4
SPREAD_CROPS = 256  # from which the spread of each feature is measured
LEAST_SPREAD = 1e-3  # of the mean one: features that never move count as if they moved so much
CELLS = 60_000  # of latents, in all: some fifty for each weight of a prediction
RIDGE = 1e-3  # of the mean energy of an input
CROPS = 16  # drawn at once

DrawBatch = Callable[[int, np.random.Generator], Batch]
"""Cuts so many crops to learn from."""


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


@torch.no_grad()
def start_from_regression(
    tap: FittedTap, draw: DrawBatch, spread: Tensor, rng: np.random.Generator, *, cells: int = CELLS
) -> None:
    """Set a tap, whose blocks are the identity still, to the reduced-rank ridge regression.

    ``spread`` (F,) holds the units in which errors of features count. It learns from ``cells`` of
    latents. Source: Izenman, "Reduced-rank regression for the multivariate linear model", 1975.
    """
    # A cell of the tap gives up x up cells of every feature, side by side.
    spread = spread.double().repeat_interleave(tap.shape.up**2)
    energy_in, both = _moments(tap, draw, rng, cells)
    # The ridge keeps weights of latents that are nearly always 0 from exploding.
    ridged = energy_in.clone()
    ridged.diagonal().add_(RIDGE * float(ridged.diagonal().mean()))
    solved = torch.linalg.solve(ridged, both) / spread  # (K + 1, outputs)
    weight, bias = solved[:-1], solved[-1]
    # The last input is the constant 1: its row of the moments is the mean of the others.
    mean = energy_in[-1, :-1]
    centred = energy_in[:-1, :-1] - mean[:, None] * mean
    # The directions in which predictions vary most are all that so narrow a tap can carry.
    energy, basis = torch.linalg.eigh(weight.T @ centred @ weight)
    rank = min(tap.shape.width, len(energy))
    # Either convolution takes the root of a direction's deviation: their gradients are then alike.
    basis, scale = basis[:, -rank:], energy[-rank:].clamp_min(1e-12) ** 0.25
    # What lies between is centred: gains of a quality then scale what differs, not the mean.
    _set(tap.opening, (weight @ basis / scale).T, -(mean @ weight @ basis) / scale)
    offset = bias + mean @ weight
    _set(tap.closing, (basis * scale) * spread[:, None], offset * spread)


def _moments(
    tap: FittedTap, draw: DrawBatch, rng: np.random.Generator, cells: int
) -> tuple[Tensor, Tensor]:
    """Return moments per cell: (K + 1, K + 1) of neighbourhoods, (K + 1, outputs) with features."""
    place, down = tap.closing.weight.device, tap.shape.down
    width = tap.opening.weight[0].numel() + 1
    # Tens of thousands of cells are added up: float32 would lose the smallest directions.
    inputs = torch.zeros(width, width, dtype=torch.float64, device=place)
    both = torch.zeros(width, tap.shape.outputs, dtype=torch.float64, device=place)
    seen = 0
    while seen < cells:
        batch = draw(CROPS, rng).to(place)
        inside = _tap_cells(tap, batch.counts)[:, 0] > 0
        # What the tap's first convolution sees at each of its cells: (n, C * k * k).
        patches = F.unfold(batch.latents, down + 2, padding=1, stride=down)
        x = F.pad(patches.transpose(1, 2).flatten(0, 1)[inside], (0, 1), value=1.0)
        inputs += x.T @ x
        both += x.T @ _tap_cells(tap, batch.features)[inside]
        seen += max(1, len(x))
    return inputs / seen, both / seen


def _tap_cells(tap: FittedTap, features: Tensor) -> Tensor:
    """Gather the features across each of the tap's cells: (n, F * up * up)."""
    return F.pixel_unshuffle(features, tap.shape.up).movedim(1, -1).flatten(0, 2)


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Fill the first (opening) or all (closing) channels; the others begin silent."""
    if conv.bias is None:
        raise ValueError("expected a convolution with a bias")
    rows, columns = weight.shape
    flat = conv.weight.flatten(1)
    if rows == len(flat):
        flat = torch.zeros_like(flat)
    flat[:rows, :columns] = weight.to(flat)
    conv.weight.copy_(flat.view_as(conv.weight))
    conv.bias[:rows] = bias.to(conv.bias)
