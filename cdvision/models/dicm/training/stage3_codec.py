"""Stage 3: the codec of the filtered features alone, with losses on layers 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cdvision.models.dicm.codec import Dicm
from cdvision.models.dicm.sent_features import SentFeatures
from cdvision.models.dicm.training.distortions import codec_distortion, feature_errors
from cdvision.models.dicm.training.options import CodecOptions
from cdvision.models.dicm.training.rate_stage import CropStage
from cdvision.models.dicm.training.rates import rate_groups
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.protocols import freeze

RATE_WEIGHT = 0.08  # the released script's; qualities spread from 0.64 to 0.02
NORMALISED_RATE_WEIGHT = 1.0


class CodecStage(CropStage):
    """Train all but RE with λ R + 2048 MSE(f2, f3) + Σ λi MSE(Fi(f2), Fi(f3)).

    Crops are multiples of 64 pixels, the stride of z.
    """

    name = "codec"

    def __init__(
        self, model: Dicm, banks: Sequence[PhotoBank], plan: Plan, options: CodecOptions
    ) -> None:
        weight = NORMALISED_RATE_WEIGHT if options.normalised else RATE_WEIGHT
        super().__init__(model, banks, plan, rate_weight=weight, options=options, ramped=True)
        self.model, self.normalised = model, options.normalised
        freeze(model.re)
        self.optimizer = torch.optim.AdamW(rate_groups(model, options.learning_rate), fused=True)

    def compare(self, image: Tensor, quality: Tensor) -> tuple[SentFeatures, dict[str, Tensor]]:
        """Return what arrives, and its errors against what RE has filtered."""
        with torch.no_grad():
            filtered = self.model.re.transmit_image(image, quality).features
        sent = self.model.transmit(filtered, quality)
        distortion = feature_errors if self.normalised else codec_distortion
        return sent, distortion(self.model.tail, sent.features, filtered)

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        return super().record() | {"normalised": self.normalised}
