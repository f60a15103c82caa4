"""The stage of both zoo codecs: photos are sent, enlarged, and compared behind the true network.

Front and tail are frozen: they are the zoo's own. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.dicm.map_codec import FullCodec, MapCodec, enlarged
from cdvision.models.dicm.training.map_start import Enlarged, start_codec
from cdvision.models.dicm.training.models import FULL, LIGHT
from cdvision.models.dicm.training.native_crops import draw_size
from cdvision.models.dicm.training.options import SenderOptions
from cdvision.models.dicm.training.rate_stage import draw_qualities
from cdvision.models.dicm.training.rates import BYTES_PER_BPP
from cdvision.models.dicm.training.stage_errors import StageErrors
from cdvision.networks.scales import QUALITIES
from cdvision.training.finished import Finished
from cdvision.training.learning_rates import codec_rate, group_by_rate
from cdvision.training.photo_bank import PhotoBank, count_photos
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, freeze, lay_out, stages_of
from cdvision.training.rate_control import (
    RateControl,
    recorded_prices,
    restore_prices,
    start_prices,
)
from cdvision.training.stage import Stage
from cdvision.training.weight_average import WeightAverage

START_BATCHES, START_SIZE = 3, 8  # of each group of photos, from which a start is computed
MORE_PATCHES = 160  # crops of each group, whose patches tell more than the networks can look at
MEMORY = 0.999  # of the average
SOLVED = ("analysis.linear", "synthesis.linear")  # parts that begin as a regression


class Prices(RateControl):
    """Rate control, and what the error of each quality is divided by in the loss."""

    unit: Tensor

    def __init__(self, targets: tuple[float, ...]) -> None:
        super().__init__(targets)
        self.register_buffer("unit", torch.ones(len(targets)))


class SenderStage(Stage):
    """Trains `dicm-re` (a ``FullCodec``) or `dicm-light` (a ``LightCodec``).

    The loss of an image is the sum of its weighted errors of res2, res3 and res4, over what that
    sum was at its quality when the run began, and the rate, steered to ``options.bpp``.
    """

    def __init__(
        self,
        codec: MapCodec,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: SenderOptions,
        *,
        channels: Sequence[int],
        start: Finished | None = None,
    ) -> None:
        self.name = FULL if isinstance(codec, FullCodec) else LIGHT
        self.banks, self.plan, self.options, self.start = banks, plan, options, start
        self.codec = lay_out(codec, plan.device).train()
        freeze(codec.front, codec.tail)
        self.average = WeightAverage(self.codec, memory=MEMORY)
        targets = tuple(bpp * BYTES_PER_BPP for bpp in options.targets)
        self.rate, self.errors = Prices(targets).to(plan.device), StageErrors(channels)
        self.errors.to(plan.device)
        self.weights = torch.tensor(options.stage_weights, device=plan.device)
        groups = group_by_rate(codec, self._learning_rate)
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)

    def _learning_rate(self, name: str) -> float:
        if name.startswith(SOLVED):
            return self.options.solved_rate
        return codec_rate(name.removeprefix("bottleneck."), self.options.learning_rate)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {
            "model": self.codec, "average": self.average, "rate": self.rate, "errors": self.errors,
        }  # fmt: skip

    def result(self) -> nn.Module:
        """Return the averaged codec, front and tail included."""
        return self.average.network

    def begin(self, rng: np.random.Generator) -> None:
        """Measure variances and prices, and begin with a linear code where nothing is trained."""
        crops = [
            self._draw(bank, START_SIZE, rng) for bank in self.banks for _ in range(START_BATCHES)
        ]
        self.errors.measure(self._stages(enlarged(image, (size, size))) for image, size in crops)
        if self.start is None:
            more = [self._draw(bank, MORE_PATCHES, rng)[0] for bank in self.banks]
            targets = torch.exp(self.rate.log_target).tolist()
            start_codec(self.codec, self.errors, crops, more, targets)
        self._begin_prices(crops)
        self.average.restart(self.codec)

    @torch.no_grad()
    def _begin_prices(self, crops: Enlarged) -> None:
        """Price a byte at each quality by the error that one more saves."""
        errors, sizes = [], []
        for number in range(QUALITIES):
            found = []
            for image, size in crops[::START_BATCHES]:
                quality = torch.full((len(image),), number, device=image.device)
                error, bits, pixels = self.compare(image, size, quality)
                found.append((float((error @ self.weights).mean()),
                              float(bits[1].mean()) / pixels * BYTES_PER_BPP))  # fmt: skip
            error_mean, bpp_mean = np.mean(found, axis=0).tolist()
            errors.append(error_mean)
            sizes.append(bpp_mean)
        self.rate.unit.copy_(torch.tensor(errors))
        if self.start is None or not restore_prices(self.rate, self.start):
            start_prices(self.rate, errors, sizes, unit=errors)

    def _draw(self, bank: PhotoBank, size: int, rng: np.random.Generator) -> tuple[Tensor, int]:
        image = channels_last(bank.batch(size, rng), self.plan.device)
        return image, draw_size(image.shape[3], self.options.zoom, rng)

    @torch.no_grad()
    def _stages(self, image: Tensor) -> list[Tensor]:
        with self.plan.autocast():
            features = self.codec.front(image)
            return [features, *stages_of(self.codec.tail, features)]

    def compare(
        self, image: Tensor, size: int, quality: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor], int]:
        """Send crops (N, 3, S, S) at qualities (N,) to a network that sees them enlarged to size.

        Returns errors (N, 3) of res2, res3 and res4, noisy and real bits (N,) each, and the pixels
        of an image that was coded.
        """
        wanted = self._stages(enlarged(image, (size, size)))
        seen = self.codec.seen(image, (size, size))
        with self.plan.autocast():
            sent = self.codec.transmit_image(seen, quality, (size, size))
            found = [sent.features, *stages_of(self.codec.tail, sent.features)]
        pixels = seen.shape[2] * seen.shape[3]
        return self.errors(found, wanted), (sent.noisy_bits, sent.bits), pixels

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Send a batch at random qualities; return errors and rate."""
        shares = np.array([bank.plan.share for bank in self.banks])
        bank = self.banks[rng.choice(len(self.banks), p=shares / shares.sum())]
        image, size = self._draw(bank, self.plan.batch, rng)
        quality = draw_qualities(len(image), rng, self.plan.device)
        errors, (noisy, bits), pixels = self.compare(image, size, quality)
        # Every quality counts the same: at low ones errors are ten times as large.
        error = (errors @ self.weights / self.rate.unit[quality]).mean()
        rate: Tensor = self.rate(noisy, bits, quality, pixels)
        terms = dict(zip(("res2", "res3", "res4"), errors.mean(0), strict=True))
        return error + rate, terms | {"error": error, "rate": rate}

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.codec)

    def watched(self) -> dict[str, Any]:
        """Return the running bits per coded pixel at each quality."""
        return {"bpp": [round(rate / BYTES_PER_BPP, 4) for rate in self.rate.rates()]}

    def record(self) -> dict[str, Any]:
        """Return facts for ``training.json``."""
        facts = {"photos": count_photos(self.banks), **recorded_prices(self.rate)}
        facts |= asdict(self.options)
        return facts if self.start is None else {**facts, "start": self.start.record}
