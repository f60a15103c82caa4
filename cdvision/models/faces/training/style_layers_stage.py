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

from cdvision.models.faces.style_layers import SentRows, StyleLayers
from cdvision.models.faces.training.codec_stage import (
    STEERING,
    FaceCodecStage,
    attribute_divergence,
    kept_numbers,
    target_bytes,
)
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import StyleLayersOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.style_start import start_style_layers
from cdvision.networks.scales import QUALITIES
from cdvision.training.learning_rates import group_by_rate
from cdvision.training.plan import Plan
from cdvision.training.rate_control import RateControl

SHARES = {
    "synthesis": 1e-2, "linear": 1e-3, "correction": 1e-3, "transformer": 2e-2, "scales": 0.1,
}  # of the learning rate: gains and tables, which are logarithms, have all of it  # fmt: skip
FROZEN = "analysis"
"""What stays as the start computes it. Rows stand around 17 and move along few directions, so these
weights are small (0.0005) and their gradients huge (1,000 times those of the gains): Adam's equal
steps of 1e-5 change each by 2 % at once. 25 of them more than doubled the bytes of later layers, in
whatever order of warm-up or clipping, while all other groups learn at ordinary rates."""
ATTRIBUTE_WEIGHT, PICTURE_WEIGHT = 3.0, 0.5
PROBED = 400  # faces from which the metric is measured


class StyleLayersStage(FaceCodecStage[StyleLayers]):
    """Train the `sfic-style` codec on the rows of training faces, (M, rows, style).

    With ``perceptual``, some faces of a batch are drawn after each layer and compared, too.
    """

    name, probed = "faces-style-layers", PROBED

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
        super().__init__(networks, codec, rows, plan, perceptual=perceptual, goes_on=goes_on)
        options = options or StyleLayersOptions()
        self.targets = target_bytes(options.basic_bytes, options.all_bytes)
        # Layers behind the basic one share a budget: where a byte is worth more it goes.
        later = tuple(sum(rest) for rest in zip(*self.targets[1:], strict=True))
        self.start = kept_numbers("errors", QUALITIES, len(codec.layout.rows)).to(plan.device)
        self.basic_rate, self.later_rate = (
            RateControl(target, speed=STEERING).to(plan.device)
            for target in (self.targets[0], later)
        )
        for name, parameter in codec.named_parameters():
            parameter.requires_grad_(not name.startswith(FROZEN))
        rate = options.learning_rate
        groups = group_by_rate(codec, lambda name: rate * SHARES.get(name.partition(".")[0], 1.0))
        self.optimizer = torch.optim.Adam(groups, fused=True)

    @property
    def controls(self) -> dict[str, RateControl]:
        """What steers the basic layer, and those behind it."""
        return {"basic": self.basic_rate, "later": self.later_rate}

    def begin(self, rng: np.random.Generator) -> None:
        """Measure the metric and set a new codec's linear paths."""
        chosen = self.measure_metric(rng)
        if not self.goes_on:
            start_style_layers(self.codec, self.metric, self.rows, self.targets)
        self._measure_errors(self.rows[chosen])

    @torch.no_grad()
    def _measure_errors(self, rows: Tensor) -> None:
        """Measure the errors of rows at the start, (qualities, layers).

        Errors count relative to them: they fall by decades from quality 1 to 8, and a byte must be
        worth about the same share of them everywhere.
        """
        errors = self.start.get_buffer("errors")
        for number in range(QUALITIES):
            sent = self.codec(rows, torch.full((len(rows),), number, device=rows.device))
            for layer, found in enumerate(sent.rows):
                errors[number, layer] = self.metric(found, rows).mean().clamp_min(1e-9)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {
            "codec": self.codec,
            "basic_rate": self.basic_rate,
            "later_rate": self.later_rate,
            "metric": self.metric,
            "start": self.start,
        }

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Rates and errors of one batch at random qualities."""
        device, size = self.plan.device, self.plan.batch
        rows = self.rows[torch.from_numpy(rng.integers(len(self.rows), size=size)).to(device)]
        quality = torch.from_numpy(rng.integers(QUALITIES, size=size)).to(device)
        sent = self.codec(rows, quality)
        terms = self._errors(sent, rows, quality)
        loss = torch.stack(list(terms.values())).sum() + self._rate(sent, quality)
        return loss, terms

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
        noisy, bits = ((x[:, 0], x[:, 1:].sum(1)) for x in (sent.noisy_bits, sent.bits))
        return self.rate(noisy, bits, quality)

    def _errors(self, sent: SentRows, rows: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Errors of the rows that a receiver has after each layer, over those of the start."""
        terms: dict[str, Tensor] = {}
        wanted = self.networks.head(rows)
        for layer, found in enumerate(sent.rows):
            unit = self.start.get_buffer("errors")[quality, layer]
            error = self.metric(found, rows) / unit
            terms[f"rows_{layer}"] = error.mean()
            divergence = attribute_divergence(self.networks.head(found), wanted)
            terms[f"attributes_{layer}"] = ATTRIBUTE_WEIGHT * divergence
        if self.perceptual is not None:
            found = self.picture_errors(self.perceptual, ((x,) for x in sent.rows), rows)
            terms["pictures"] = PICTURE_WEIGHT * found
        return terms
