"""The codec stage of `sfic-style`: rows in three layers, each worth its bytes.

::

    loss = sum over layers of  β · bits + error of rows + ω · attributes' divergence [+ pictures]

Rows come from a frozen inversion encoder and are computed once. After each layer the receiver has
rows, decoded or predicted; their error counts in the eyes of generator and attribute head (see
``style_metric``). β is steered: the basic layer to its bytes, the layers behind it to the rest.

Source of the idea: the multi-task scalable objective of Mao et al., "Scalable Face Image Coding
via StyleGAN Prior", IEEE TIP 2024; its weights are not public, these are ours.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.style_layers import SentRows, StyleLayers
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import StyleLayersOptions, check_bytes
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.models.faces.training.style_start import start_style_layers
from cdvision.networks.scales import QUALITIES
from cdvision.training.learning_rates import group_by_rate
from cdvision.training.plan import Plan
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl, targets_between
from cdvision.training.stage import Stage

SHARES = {
    "synthesis": 1e-2, "linear": 1e-3, "correction": 1e-3, "transformer": 2e-2, "scales": 0.1,
}  # of the learning rate: gains and tables, which are logarithms, have all of it  # fmt: skip
FROZEN = "analysis"
"""What stays as the start computes it. Rows stand around 17 and move along few directions, so these
weights are small (0.0005) and their gradients huge (1,000 times those of the gains): Adam's equal
steps of 1e-5 change each by 2 % at once. 25 of them more than doubled the bytes of later layers, in
whatever order of warm-up or clipping, while all other groups learn at ordinary rates."""
ATTRIBUTE_WEIGHT, PICTURE_WEIGHT = 3.0, 0.5
PICTURES = 4  # faces of a batch that are drawn, where pictures count
PROBED = 400  # faces from which the metric is measured
STEERING = 0.02


class StyleLayersStage(Stage):
    """Train the `sfic-style` codec between a frozen encoder and what reads its rows.

    Args:
        networks: encoder, generator and attribute head, frozen.
        codec: trained in place.
        rows: of training faces, (M, rows, style); see ``cached_codes``.
        plan: length, batch, device.
        options: bytes and learning rate.
        perceptual: draw some faces of a batch after each layer and compare them, too.
        goes_on: the codec is trained already, its start stays.
    """

    name = "faces-style-layers"

    def __init__(
        self,
        networks: FaceNetworks,
        codec: StyleLayers,
        rows: Tensor,
        plan: Plan,
        options: StyleLayersOptions | None = None,
        *,
        perceptual: PerceptualLoss | None = None,
        goes_on: bool = False,
    ) -> None:
        options = options or StyleLayersOptions()
        self.goes_on = goes_on
        self.networks = networks.to(plan.device).eval().requires_grad_(False)
        self.codec, self.plan = codec.to(plan.device).train(), plan
        self.rows = rows.to(plan.device)
        self.targets = target_bytes(options.basic_bytes, options.all_bytes)
        self.perceptual = None if perceptual is None else perceptual.to(plan.device)
        self.metric = StyleMetric(rows[0].numel()).to(plan.device)
        later = tuple(sum(rest) for rest in zip(*self.targets[1:], strict=True))
        self.start = StartErrors(len(codec.layout.rows)).to(plan.device)
        self.basic_rate, self.later_rate = (
            RateControl(target, speed=STEERING).to(plan.device)
            for target in (self.targets[0], later)
        )
        self.optimizer = torch.optim.Adam(_groups(codec, options.learning_rate), fused=True)

    def begin(self, rng: np.random.Generator) -> None:
        """Measure the metric and set a new codec's linear paths."""
        chosen = torch.from_numpy(rng.permutation(len(self.rows))[:PROBED]).to(self.plan.device)
        answers = (self.networks.generator.synthesise, self._weighted_logits)
        self.metric.measure(self.rows[chosen], answers)
        if not self.goes_on:
            start_style_layers(self.codec, self.metric, self.rows, self.targets)
        self.start.measure(self.codec, self.metric, self.rows[chosen])

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {
            "codec": self.codec,
            "basic_rate": self.basic_rate,
            "later_rate": self.later_rate,
            "metric": self.metric,
            "start": self.start,
        }

    def result(self) -> nn.Module:
        """Return the codec."""
        return self.codec

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Rates and errors of one batch at random qualities."""
        device, size = self.plan.device, self.plan.batch
        rows = self.rows[torch.from_numpy(rng.integers(len(self.rows), size=size)).to(device)]
        quality = torch.from_numpy(rng.integers(QUALITIES, size=size)).to(device)
        sent = self.codec(rows, quality)
        terms = self._errors(sent, rows, quality)
        loss = torch.stack(list(terms.values())).sum() + self._rate(sent, quality)
        return loss, terms

    def watched(self) -> dict[str, Any]:
        """Return the running bytes of the basic layer, and of those behind it."""
        controls = {"basic_bytes": self.basic_rate, "later_bytes": self.later_rate}
        return {name: [round(r, 1) for r in control.rates()] for name, control in controls.items()}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            "layout": asdict(self.codec.layout),
            "target_bytes": self.targets,
            "faces": len(self.rows),
            "attribute_weight": ATTRIBUTE_WEIGHT,
            "pictures": self.perceptual is not None,
            **self.watched(),
        }

    def _rate(self, sent: SentRows, quality: Tensor) -> Tensor:
        parts = (self.basic_rate, slice(0, 1)), (self.later_rate, slice(1, None))
        terms = []
        for control, part in parts:
            noisy, bits = sent.noisy_bits[:, part].sum(1), sent.bits[:, part].sum(1)
            terms.append(control(noisy, bits, quality, REFERENCE_PIXELS))
        return torch.stack(terms).sum()

    def _errors(self, sent: SentRows, rows: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Errors of the rows that a receiver has after each layer, over those of the start."""
        terms: dict[str, Tensor] = {}
        wanted = self.networks.head(rows)
        for layer, found in enumerate(sent.rows):
            error = self.metric(found, rows) / self.start.errors[quality, layer]
            terms[f"rows_{layer}"] = error.mean()
            divergence = attribute_divergence(self.networks.head(found), wanted)
            terms[f"attributes_{layer}"] = ATTRIBUTE_WEIGHT * divergence
        if self.perceptual is not None:
            terms["pictures"] = PICTURE_WEIGHT * self._picture_errors(sent, rows)
        return terms

    def _picture_errors(self, sent: SentRows, rows: Tensor) -> Tensor:
        if self.perceptual is None:
            raise TypeError("expected a perceptual loss")
        with torch.no_grad():
            wanted = self.networks.generator.synthesise(rows[:PICTURES])
        drawn = [self.networks.generator.synthesise(found[:PICTURES]) for found in sent.rows]
        return torch.stack([self.perceptual(picture, wanted) for picture in drawn]).sum()

    def _weighted_logits(self, rows: Tensor) -> Tensor:
        """Logits, each counting by the variance of its answer: certain ones cannot change."""
        logits: Tensor = self.networks.head(rows)
        probability = torch.sigmoid(logits.detach())
        return logits * (probability * (1 - probability)).sqrt()


class StartErrors(nn.Module):
    """Error of the rows at the start of training, by quality and layer, (qualities, layers).

    Errors count relative to it: they fall by decades from quality 1 to 8, and a byte must be worth
    about the same share of them everywhere.
    """

    errors: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("errors", torch.ones(QUALITIES, layers))

    @torch.no_grad()
    def measure(self, codec: StyleLayers, metric: StyleMetric, rows: Tensor) -> None:
        """Measure a codec on rows (M, rows, style)."""
        for number in range(QUALITIES):
            sent = codec(rows, torch.full((len(rows),), number, device=rows.device))
            for layer, found in enumerate(sent.rows):
                self.errors[number, layer] = metric(found, rows).mean().clamp_min(1e-9)


def attribute_divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, in nats an attribute, of logits from ``wanted`` ones."""
    probability = torch.sigmoid(wanted)
    cross = F.binary_cross_entropy_with_logits(found, probability)
    return cross - F.binary_cross_entropy_with_logits(wanted, probability)


def target_bytes(
    basic: tuple[float, float], total: tuple[float, float], later: tuple[float, ...] = (0.6, 0.4)
) -> list[tuple[float, ...]]:
    """Log-spaced bytes at each quality, layer by layer; ``later`` shares what basic leaves.

    >>> [round(layer[0]) for layer in target_bytes((30, 80), (100, 350))]
    [30, 42, 28]

    Raises:
        CdvisionError: targets that are no such bytes.
    """
    check_bytes(basic, total)
    first, everything = targets_between(*basic), targets_between(*total)
    rest = [a - b for a, b in zip(everything, first, strict=True)]
    return [first, *(tuple(share * left for left in rest) for share in later)]


def _groups(codec: StyleLayers, learning_rate: float) -> list[dict[str, Any]]:
    """Return the parameter groups; what has no group is frozen."""
    for name, parameter in codec.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    return group_by_rate(
        codec, lambda name: learning_rate * SHARES.get(name.partition(".")[0], 1.0)
    )
