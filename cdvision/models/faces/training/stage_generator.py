"""Adversarial training of the generator: two players, lazy regularisation, a moving average.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. A lazy
term is drawn with probability 1/n and weighs n times as much, where the paper takes every n-th
step: the same in the mean, and a resumed run needs no counter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.faces.style_discriminator import StyleDiscriminator
from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.training.adversarial_losses import (
    PathLength,
    augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.training.plan import Plan
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

LEARNING_RATE = 0.0025
BETAS = (0.0, 0.99)
R1_EVERY, PATH_EVERY = 16, 4
HALF_LIFE = 10_000.0  # images after which weights count half as much in the average
MEAN_DECAY = 0.005  # of the mapping network's mean style


class GeneratorStage(Stage):
    """Train ``networks.generator`` against a discriminator; the result is its moving average.

    Args:
        networks: its generator is trained in place.
        bank: training faces.
        plan: length, batch, device.
        r1: weight of R1.
        path: weight of path length regularisation; 0 leaves it out.
        mixing: how often a face gets two styles.
        augmented: vary what the discriminator sees (needed for a few thousand faces).
        learning_rate: of both players.
    """

    name = "faces-generator"

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        plan: Plan,
        *,
        r1: float = 1.0,
        path: float = 0.0,
        mixing: float = 0.9,
        augmented: bool = True,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        self.networks, self.bank, self.plan = networks.to(plan.device), bank, plan
        self.r1, self.path_weight, self.mixing, self.augmented = r1, path, mixing, augmented
        self.generator: StyleGenerator = networks.generator.train()
        self.discriminator = StyleDiscriminator(networks.widths).to(plan.device)
        # The half-life is counted in images, as generators are usually averaged.
        memory = 0.5 ** (plan.batch / HALF_LIFE)
        self.average = WeightAverage(self.generator, memory=memory)
        self.path = PathLength().to(plan.device)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), learning_rate, BETAS)
        self.opponent = torch.optim.Adam(self.discriminator.parameters(), learning_rate, BETAS)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {
            "networks": self.networks,
            "discriminator": self.discriminator,
            "average": self.average,
            "path": self.path,
        }

    def result(self) -> nn.Module:
        """Return the networks with the averaged generator."""
        self.generator.load_state_dict(self.average.network.state_dict())
        return self.networks

    def opponent_loss(
        self, rng: np.random.Generator, done: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The discriminator's loss on one batch of training faces and one of drawn ones."""
        self.discriminator.requires_grad_(True)
        real = self.bank.batch(self.plan.batch, rng).images / 127.5 - 1
        with torch.no_grad(), self.plan.autocast():
            drawn = self.generator.synthesise(self._rows(rng)).float()
        with self.plan.autocast():
            loss = discriminator_loss(self._judge(real), self._judge(drawn))
        terms = {"judged": loss}
        if rng.random() < 1 / R1_EVERY:  # second derivatives stay in float32
            real.requires_grad_(True)
            terms["r1"] = r1_penalty(self._judge(real), real)
            loss = loss + R1_EVERY * self.r1 * terms["r1"]
        return loss, terms

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss on one batch of drawn faces."""
        self.discriminator.requires_grad_(False)
        with self.plan.autocast():
            rows = self._rows(rng, follow=True)
            loss = generator_loss(self._judge(self.generator.synthesise(rows)))
        terms = {"drawn": loss}
        if self.path_weight > 0 and rng.random() < 1 / PATH_EVERY:
            rows = self._rows(rng)[: max(1, self.plan.batch // 2)].clone()
            terms["path"] = self.path(self.generator.synthesise(rows), rows)
            loss = loss + PATH_EVERY * self.path_weight * terms["path"]
        return loss, terms

    def after_step(self) -> None:
        """Follow the generator."""
        self.average.follow(self.generator)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            **self.networks.facts(),
            "faces": len(self.bank.images),
            "r1": self.r1,
            "path": self.path_weight,
            "augmented": self.augmented,
        }

    def _judge(self, images: Tensor) -> Tensor:
        images = images.float()
        logits: Tensor = self.discriminator(augment(images) if self.augmented else images)
        return logits.float()

    def _rows(self, rng: np.random.Generator, *, follow: bool = False) -> Tensor:
        """Draw W+ rows (batch, rows, style), some of them of two styles."""
        size, widths = self.plan.batch, self.networks.widths
        z = torch.randn(2 * size, widths.style, device=self.plan.device)
        w = self.generator.mapping(z)
        if follow:
            with torch.no_grad():
                self.generator.mapping.mean.lerp_(w.detach().float().mean(0), MEAN_DECAY)
        mixed = rng.random(size) < self.mixing
        change = np.where(mixed, rng.integers(1, widths.rows, size), widths.rows)
        first = torch.arange(widths.rows) < torch.from_numpy(change)[:, None]
        return torch.where(first.to(w.device)[:, :, None], w[:size, None], w[size:, None])
