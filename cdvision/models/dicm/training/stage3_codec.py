"""Stage 3: the codec of the filtered features alone, with losses on layers 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdvision.models.dicm.training.distortions import codec_distortion, feature_errors
from cdvision.models.dicm.training.options import CodecOptions
from cdvision.models.dicm.training.rate_stage import RateStage, pixels_of
from cdvision.models.dicm.training.rates import ramp, rate_groups
from cdvision.training.photo_bank import PhotoBank, count_photos
from cdvision.training.plan import Plan
from cdvision.training.protocols import CodecModel, as_module, freeze

RATE_WEIGHT = 0.08  # the released script's; qualities spread from 0.64 to 0.02
NORMALISED_RATE_WEIGHT = 1.0


class CodecStage(RateStage):
    """Train the codec with λ R + 2048 MSE(f2, f3) + Σ λi MSE(Fi(f2), Fi(f3)).

    Args:
        model: all but its ``re`` is trained in place.
        banks: groups of photos; their crops must be multiples of 64, the stride of z.
        plan: length, batch, device.
        options: losses and rates. ``normalised`` errors are those of stage 1's feature losses.
        qualities: of the model; RE filters at the quality that the codec then sends.
    """

    name = "codec"

    def __init__(
        self,
        model: CodecModel,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: CodecOptions | None = None,
        *,
        qualities: int = 8,
    ) -> None:
        options = options or CodecOptions()
        weight = NORMALISED_RATE_WEIGHT if options.normalised else RATE_WEIGHT
        super().__init__(
            as_module(model), plan, qualities=qualities, rate_weight=weight, targets=options.targets
        )
        self.model, self.banks, self.normalised = model, banks, options.normalised
        freeze(as_module(model.re))
        self.optimizer = torch.optim.AdamW(
            rate_groups(self.network, options.learning_rate), fused=True
        )

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
