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

from cdvision.models.faces.style_generator import StyleGenerator
from cdvision.models.faces.training.adversarial import (
    PathLength,
    StyleDiscriminator,
    augment,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from cdvision.models.faces.training.face_bank import FaceBank
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import GeneratorOptions
from cdvision.training.plan import Plan
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

BETAS = (0.0, 0.99)
R1_EVERY, PATH_EVERY = 16, 4
HALF_LIFE = 10_000.0  # images after which weights count half as much in the average
MEAN_DECAY = 0.005  # of the mapping network's mean style


class GeneratorStage(Stage):
    """Train ``networks.generator`` against a discriminator; the result is its moving average."""

    name = "faces-generator"

    def __init__(
        self,
        networks: FaceNetworks,
        bank: FaceBank,
        plan: Plan,
        options: GeneratorOptions | None = None,
    ) -> None:
        self.options = options or GeneratorOptions()
        self.networks, self.bank, self.plan = networks.to(plan.device), bank, plan
        self.generator: StyleGenerator = networks.generator.train()
        self.discriminator = StyleDiscriminator(networks.widths).to(plan.device)
        # The half-life is counted in images, as generators are usually averaged.
        memory = 0.5 ** (plan.batch / HALF_LIFE)
        self.average = WeightAverage(self.generator, memory=memory)
        self.path = PathLength().to(plan.device)
        rate = self.options.learning_rate
        # No momentum: what was right against yesterday's opponent need not be today.
        self.optimizer = torch.optim.Adam(self.generator.parameters(), rate, BETAS)
        self.opponent = torch.optim.Adam(self.discriminator.parameters(), rate, BETAS)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        players = {"networks": self.networks, "discriminator": self.discriminator}
        return {**players, "average": self.average, "path": self.path}

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
            # Taken every n-th time, it weighs n times as much.
            loss = loss + R1_EVERY * self.options.r1 * terms["r1"]
        return loss, terms

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss on one batch of drawn faces."""
        # Its weights rest here: gradients pass through them to the picture only.
        self.discriminator.requires_grad_(False)
        with self.plan.autocast():
            rows = self._rows(rng, follow=True)
            loss = generator_loss(self._judge(self.generator.synthesise(rows)))
        terms = {"drawn": loss}
        if self.options.path > 0 and rng.random() < 1 / PATH_EVERY:
            rows = self._rows(rng)[: max(1, self.plan.batch // 2)].clone()
            terms["path"] = self.path(self.generator.synthesise(rows), rows)
            loss = loss + PATH_EVERY * self.options.path * terms["path"]
        return loss, terms

    def after_step(self) -> None:
        """Follow the generator."""
        self.average.follow(self.generator)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            **self.networks.facts(),
            "faces": len(self.bank.images),
            "r1": self.options.r1,
            "path": self.options.path,
            "augmented": self.options.augment,
        }

    def _judge(self, images: Tensor) -> Tensor:
        images = images.float()
        logits: Tensor = self.discriminator(augment(images) if self.options.augment else images)
        return logits.float()

    def _rows(self, rng: np.random.Generator, *, follow: bool = False) -> Tensor:
        """Draw W+ rows (batch, rows, style), some of them of two styles."""
        size, widths = self.plan.batch, self.networks.widths
        # Two styles a face: the second one is for those that are mixed.
        z = torch.randn(2 * size, widths.style, device=self.plan.device)
        w = self.generator.mapping(z)
        if follow:
            with torch.no_grad():
                self.generator.mapping.mean.lerp_(w.detach().float().mean(0), MEAN_DECAY)
        # Layers before the change have the first style, those behind it another one.
        mixed = rng.random(size) < self.options.mixing
        change = np.where(mixed, rng.integers(1, widths.rows, size), widths.rows)
        first = torch.arange(widths.rows) < torch.from_numpy(change)[:, None]
        return torch.where(first.to(w.device)[:, :, None], w[:size, None], w[size:, None])
