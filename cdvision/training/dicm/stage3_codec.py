"""Stage 3: the codec of the filtered features alone, with losses on layers 2 to 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.training.dicm.distortions import codec_distortion, feature_errors
from cdvision.training.dicm.protocols import CodecModel, as_module, channels_last, freeze, lay_out
from cdvision.training.dicm.rates import bits_per_pixel, ramp, rate_groups, rate_term, spread
from cdvision.training.dicm.stage1_redundancy import draw_batch, draw_qualities
from cdvision.training.dicm.stage_run import Plan, Stage
from cdvision.training.photo_bank import PhotoBank

LEARNING_RATE = 1e-4
RATE_WEIGHT = 0.08  # the released script's; qualities spread from 0.64 to 0.02
NORMALISED_RATE_WEIGHT = 1.0


class CodecStage(Stage):
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
        self.model, self.banks, self.plan = model, banks, plan
        self.qualities, self.normalised = qualities, normalised
        network = lay_out(as_module(model), plan.device)
        network.train()
        freeze(as_module(model.re))
        weight = NORMALISED_RATE_WEIGHT if normalised else RATE_WEIGHT
        self.rate = rate_term(spread(weight, qualities), targets).to(plan.device)
        self.optimizer = torch.optim.AdamW(rate_groups(network, learning_rate), fused=True)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"model": as_module(self.model), "rate": self.rate}

    def result(self) -> nn.Module:
        """Return the whole model."""
        return as_module(self.model)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate of one batch."""
        image = channels_last(draw_batch(self.banks, self.plan.batch, rng), self.plan.device)
        quality = draw_qualities(self.qualities, len(image), rng, self.plan.device)
        distortion = feature_errors if self.normalised else codec_distortion
        with self.plan.autocast():
            with torch.no_grad():
                filtered = self.model.re.transmit(self.model.re.front(image), quality).features
            sent = self.model.transmit(filtered, quality)
            terms = distortion(self.model.re.tail, sent.features, filtered)
        pixels = image.shape[2] * image.shape[3]
        rate = ramp(done) * self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        return torch.stack([*terms.values(), rate]).sum(), terms | {"rate": rate}

    def watched(self) -> dict[str, Any]:
        """Return the running rates."""
        return {"bpp": [round(bpp, 4) for bpp in bits_per_pixel(self.rate)]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        photos = sum(len(bank.photos) for bank in self.banks)
        return {"photos": photos, "normalised": self.normalised, **self.watched()}
