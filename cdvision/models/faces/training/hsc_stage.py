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
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.hsc import HscCodec, HscSent
from cdvision.models.faces.training.codec_stage import (
    STEERING,
    FaceCodecStage,
    attribute_divergence,
    kept_numbers,
    target_bytes,
)
from cdvision.models.faces.training.face_bank import FaceCodes
from cdvision.models.faces.training.hsc_start import start_hsc
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import HscOptions
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.networks.scales import QUALITIES
from cdvision.training.learning_rates import factor_of, group_by_rate
from cdvision.training.plan import Plan
from cdvision.training.prices import start_prices
from cdvision.training.rate_control import RateControl

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
PRICED = 200  # faces on which the first price of a byte is measured
PROBED = 600  # faces from which the metric is measured


class HscStage(FaceCodecStage[HscCodec]):
    """Train the `hsc` codec on the codes of training faces."""

    name, probed = "faces-hsc", PROBED

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
        super().__init__(networks, codec, codes.rows, plan, perceptual=perceptual, goes_on=goes_on)
        self.options, self.codes = options or HscOptions(), codes
        self.targets = target_bytes(self.options.base_bytes, self.options.all_bytes, later=(1.0,))
        self.unit = kept_numbers("rows_error", QUALITIES).to(plan.device)
        self.rates = nn.ModuleList(
            RateControl(target, speed=STEERING) for target in self.targets
        ).to(plan.device)
        rate = self.options.learning_rate
        self.optimizer = torch.optim.Adam(
            group_by_rate(codec, lambda name: rate * factor_of(name, LEAPS)), fused=True
        )

    @property
    def controls(self) -> dict[str, RateControl]:
        """What steers base and detail."""
        base, detail = (cast(RateControl, control) for control in self.rates)
        return {"base": base, "detail": detail}

    def begin(self, rng: np.random.Generator) -> None:
        """Measure the metric and what bytes are worth; set a new codec's short cuts."""
        self.measure_metric(rng)
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
            sizes.append((sent.bits.mean(0) / 8).tolist())
        # The loss divides the error of rows by what it is at the start, so its price is, too.
        self.unit.get_buffer("rows_error").copy_(torch.tensor(rows))
        base_sizes, detail_sizes = zip(*sizes, strict=True)
        start_prices(self.controls["base"], rows, base_sizes, unit=rows)
        start_prices(self.controls["detail"], features, detail_sizes)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        stage = {"codec": self.codec, "rates": self.rates, "metric": self.metric}
        return {**stage, "unit": self.unit}

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Rates and errors of one batch at random qualities."""
        codes = self.codes.batch(self.plan.batch, rng)
        # Every quality in each batch: one set of weights serves all of them.
        drawn = torch.from_numpy(rng.integers(QUALITIES, size=self.plan.batch))
        quality = drawn.to(self.plan.device)
        sent = self.codec(codes.rows, codes.feature, quality)
        terms = self._errors(sent, codes, quality) | self._answers(sent, codes)
        weight = self.options.picture_weight
        if weight and self.perceptual is not None:
            layers = ((sent.rows,), (sent.rows, sent.feature))
            found = self.picture_errors(self.perceptual, layers, codes.rows, codes.feature)
            terms["pictures"] = weight * found
        loss = torch.stack(list(terms.values())).sum() + self._rate(sent, quality)
        return loss, terms

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

    def _rate(self, sent: HscSent, quality: Tensor) -> Tensor:
        return self.rate(sent.noisy_bits.unbind(1), sent.bits.unbind(1), quality)

    def _errors(self, sent: HscSent, codes: FaceCodes, quality: Tensor) -> dict[str, Tensor]:
        rows = self.metric(sent.rows, codes.rows) / self.unit.get_buffer("rows_error")[quality]
        feature = self.codec.feature_error(sent.feature, codes.feature)
        return {"rows": rows.mean(), "feature": feature}

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
