"""The codec stage of `hsc`: rows and F of faces as two layers, each worth its bytes.

::

    loss = β_base · bits + error of rows + ω · attributes' divergence
         + β_detail · bits + error of F + ω · attributes' divergence   [+ labels] [+ pictures]

The paper's second stage: inversion encoder and generator are frozen, losses stand on the codes
alone. There λ · MSE(S) and λ · MSE(F) with one λ a model; here eight qualities in one, steered to
bytes, and errors weighted by how much pictures and attributes depend on them. Losses on pictures
through the generator are an extension, off by default.

Source: HSC (arXiv 2502.16799, IEEE TIP 2025), stage 2.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.hsc import HscCodec, HscSent
from cdvision.models.faces.training.face_codes import FaceCodes
from cdvision.models.faces.training.hsc_start import start_hsc
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import HscOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.style_layers_stage import attribute_divergence, target_bytes
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.networks.scales import QUALITIES
from cdvision.training.learning_rates import factor_of, group_by_rate
from cdvision.training.plan import Plan
from cdvision.training.prices import start_prices
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl
from cdvision.training.stage import Stage

LEAPS = {
    "log_gain": 10.0, "log_rescale": 10.0, "prior": 10.0,
    "index_bias": 40.0, "hidden_bias": 40.0,
    "semantic.analysis.weight": 0.02, "semantic.analysis_more.0": 0.02,
    "semantic.analysis_more": 0.1, "semantic.synthesis": 0.05,
}  # fmt: skip
"""Over the learning rate: what lives on a larger scale must leap, or rates lag.

Rows move along few directions, so Adam's equal steps on thousands of weights add up: at the whole
rate the dense maps lost in twenty steps what their start had given them.
"""
PICTURES = 4  # faces of a batch that are drawn, where pictures count
PRICED = 200  # faces on which the first price of a byte is measured
PROBED = 600  # faces from which the metric is measured
STEERING = 0.02


class HscStage(Stage):
    """Train the `hsc` codec between a frozen encoder and what reads its codes.

    Args:
        networks: generator and attribute head, frozen.
        codec: trained in place.
        codes: of training faces.
        plan: length, batch, device.
        options: bytes, weights of the loss, learning rate.
        perceptual: what compares pictures, where they count.
        goes_on: the codec is trained already, its start stays.
    """

    name = "faces-hsc"

    def __init__(
        self,
        networks: FaceNetworks,
        codec: HscCodec,
        codes: FaceCodes,
        plan: Plan,
        options: HscOptions | None = None,
        *,
        perceptual: PerceptualLoss | None = None,
        goes_on: bool = False,
    ) -> None:
        self.options = options or HscOptions()
        self.goes_on = goes_on
        self.networks = networks.to(plan.device).eval().requires_grad_(False)
        self.codec, self.plan, self.codes = codec.to(plan.device).train(), plan, codes
        self.perceptual = perceptual
        self.targets = hsc_targets(self.options.base_bytes, self.options.all_bytes)
        self.metric = StyleMetric(codes.rows[0].numel()).to(plan.device)
        self.unit = nn.Module()
        self.unit.register_buffer("rows_error", torch.ones(QUALITIES))
        self.unit.to(plan.device)
        self.rates = nn.ModuleList(
            RateControl(target, speed=STEERING) for target in self.targets
        ).to(plan.device)
        rate = self.options.learning_rate
        self.optimizer = torch.optim.Adam(
            group_by_rate(codec, lambda name: rate * factor_of(name, LEAPS)), fused=True
        )

    def begin(self, rng: np.random.Generator) -> None:
        """Measure the metric and what bytes are worth; set a new codec's short cuts."""
        chosen = torch.from_numpy(rng.permutation(len(self.codes))[:PROBED])
        answers = (self.networks.generator.synthesise, self._weighted_logits)
        self.metric.measure(self.codes.rows[chosen], answers)
        if not self.goes_on:
            start_hsc(self.codec, self.metric, self.networks.generator, self.codes, self.targets)
        self._start_rates()

    @torch.no_grad()
    def _start_rates(self) -> None:
        """Measure the unit of the rows' error, then what a byte of each layer is worth."""
        codes = self.codes.at(torch.arange(min(PRICED, len(self.codes))))
        rows, features, sizes = [], [], []
        for number in range(QUALITIES):
            at = torch.full((len(codes),), number, device=codes.rows.device)
            sent = self.codec(codes.rows, codes.feature, at)
            terms = self._errors(sent, codes, at)
            rows.append(float(terms["rows"]))
            features.append(float(terms["feature"]))
            sizes.append([float(x.mean()) / 8 for x in (sent.base_bits, sent.detail_bits)])
        unit = self.unit.get_buffer("rows_error")
        unit.copy_(torch.tensor(rows))
        base_sizes, detail_sizes = zip(*sizes, strict=True)
        base_control, detail_control = self._controls()
        start_prices(base_control, rows, base_sizes, unit=rows)
        start_prices(detail_control, features, detail_sizes)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        stage = {"codec": self.codec, "rates": self.rates, "metric": self.metric}
        return {**stage, "unit": self.unit}

    def result(self) -> nn.Module:
        """Return the codec."""
        return self.codec

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Rates and errors of one batch at random qualities."""
        codes = self.codes.batch(self.plan.batch, rng)
        drawn = torch.from_numpy(rng.integers(QUALITIES, size=self.plan.batch))
        quality = drawn.to(self.plan.device)
        sent = self.codec(codes.rows, codes.feature, quality)
        terms = self._errors(sent, codes, quality) | self._answers(sent, codes)
        if self.options.picture_weight and self.perceptual is not None:
            terms["pictures"] = self.options.picture_weight * self._pictures(sent, codes)
        loss = torch.stack(list(terms.values())).sum() + self._rate(sent, quality)
        return loss, terms

    def watched(self) -> dict[str, Any]:
        """Return the running bytes of each layer."""
        return {
            f"{name}_bytes": [round(rate, 1) for rate in control.rates()]
            for name, control in zip(("base", "detail"), self._controls(), strict=True)
        }

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return {
            "hsc_widths": asdict(self.codec.widths),
            "target_bytes": self.targets,
            "faces": len(self.codes),
            "loss_weights": {
                "attributes": self.options.attribute_weight,
                "labels": self.options.label_weight,
                "pictures": self.options.picture_weight,
            },
            **self.watched(),
        }

    def _controls(self) -> list[RateControl]:
        return [control for control in self.rates if isinstance(control, RateControl)]

    def _rate(self, sent: HscSent, quality: Tensor) -> Tensor:
        base, detail = self._controls()
        first = base(sent.base_noisy_bits, sent.base_bits, quality, REFERENCE_PIXELS)
        second = detail(sent.detail_noisy_bits, sent.detail_bits, quality, REFERENCE_PIXELS)
        both: Tensor = first + second
        return both

    def _errors(self, sent: HscSent, codes: FaceCodes, quality: Tensor) -> dict[str, Tensor]:
        difference = (sent.feature - codes.feature) / self.codec.feature.spread
        rows = self.metric(sent.rows, codes.rows) / self.unit.get_buffer("rows_error")[quality]
        return {"rows": rows.mean(), "feature": difference.square().mean()}

    def _answers(self, sent: HscSent, codes: FaceCodes) -> dict[str, Tensor]:
        """How far answers of the attribute head are from those of what was sent."""
        head, options = self.networks.head, self.options
        logits = head(sent.rows)
        both = head(sent.rows, sent.feature)
        divergence = attribute_divergence(logits, head(codes.rows))
        refined = attribute_divergence(both, head(codes.rows, codes.feature))
        terms = {
            "attributes_base": options.attribute_weight * divergence,
            "attributes_both": options.attribute_weight * refined,
        }
        if options.label_weight and codes.attributes.shape[1]:
            cross = F.binary_cross_entropy_with_logits(logits, codes.attributes)
            terms["labels"] = options.label_weight * cross
        return terms

    def _pictures(self, sent: HscSent, codes: FaceCodes) -> Tensor:
        if self.perceptual is None:
            raise TypeError("expected a perceptual loss")
        draw = self.networks.generator.synthesise
        with torch.no_grad():
            wanted = draw(codes.rows[:PICTURES], codes.feature[:PICTURES])
        coarse, fine = (
            draw(sent.rows[:PICTURES]),
            draw(sent.rows[:PICTURES], sent.feature[:PICTURES]),
        )
        distance: Tensor = self.perceptual(coarse, wanted) + self.perceptual(fine, wanted)
        return distance

    def _weighted_logits(self, rows: Tensor) -> Tensor:
        """Logits, each counting by the variance of its answer: certain ones cannot change."""
        logits: Tensor = self.networks.head(rows)
        probability = torch.sigmoid(logits.detach())
        return logits * (probability * (1 - probability)).sqrt()


def hsc_targets(
    base: tuple[float, float], total: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Log-spaced bytes of base and detail at each quality.

    >>> [tuple(map(round, layer)) for layer in hsc_targets((10, 80), (100, 400))][1][::7]
    (90, 320)

    Raises:
        CdvisionError: targets that are no such bytes.
    """
    first, detail = target_bytes(base, total, later=(1.0,))
    return first, detail
