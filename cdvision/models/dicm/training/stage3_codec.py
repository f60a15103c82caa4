"""Stage 3: the codec of the filtered features alone, with losses on layers 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvision.models.dicm.training.distortions import codec_distortion, feature_errors
from cdvision.models.dicm.training.rate_stage import RateStage, pixels_of
from cdvision.models.dicm.training.rates import ramp, rate_groups
from cdvision.training.photo_bank import PhotoBank, count_photos
from cdvision.training.plan import Plan
from cdvision.training.protocols import CodecModel, as_module, freeze

LEARNING_RATE = 1e-4
RATE_WEIGHT = 0.08  # the released script's; qualities spread from 0.64 to 0.02
NORMALISED_RATE_WEIGHT = 1.0


class CodecStage(RateStage):
    """Train the codec with λ R + 2048 MSE(f2, f3) + Σ λi MSE(Fi(f2), Fi(f3)).

    Args:
        model: all but its ``re`` is trained in place.
        banks: groups of photos; their crops must be multiples of 64, the stride of z.
        plan: length, batch, device.
        qualities: of the model; RE filters at the quality that the codec then sends.
        normalised: divide every error by its channel's variance instead, as with the feature
            losses of stage 1: the paper's weights suit the activations of its own network.
        targets: bits per pixel to steer the qualities to, see :mod:`.rates`.
        learning_rate: of AdamW.
    """

    name = "codec"

    def __init__(
        self,
        model: CodecModel,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        qualities: int = 8,
        normalised: bool = False,
        targets: Sequence[float] | None = None,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        weight = NORMALISED_RATE_WEIGHT if normalised else RATE_WEIGHT
        super().__init__(
            as_module(model), plan, qualities=qualities, rate_weight=weight, targets=targets
        )
        self.model, self.banks, self.normalised = model, banks, normalised
        freeze(as_module(model.re))
        self.optimizer = torch.optim.AdamW(rate_groups(self.network, learning_rate), fused=True)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate of one batch."""
        image = self.draw_crops(self.banks, rng)
        quality = self.draw_qualities(len(image), rng)
        distortion = feature_errors if self.normalised else codec_distortion
        with self.plan.autocast():
            with torch.no_grad():
                filtered = self.model.re.transmit(self.model.re.front(image), quality).features
            sent = self.model.transmit(filtered, quality)
            terms = distortion(self.model.re.tail, sent.features, filtered)
        rate = ramp(done) * self.rate(sent.noisy_bits, sent.bits, quality, pixels_of(image))
        return torch.stack([*terms.values(), rate]).sum(), terms | {"rate": rate}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        photos = count_photos(self.banks)
        return {"photos": photos, "normalised": self.normalised, **self.watched()}
