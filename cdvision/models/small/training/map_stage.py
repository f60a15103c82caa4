"""One training step of `small`'s map: encode, quantise, decode, compare with the detector."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.small.nanodet import DenseDetections, DetectorFeatures
from cdvision.models.small.network import Small, pack, unpack
from cdvision.models.small.training.distillation import Teacher, detection_loss
from cdvision.models.small.training.recipe import WEIGHTS, Recipe, freeze, parameter_groups
from cdvision.models.small.training.sensitivity import Sensitivity
from cdvision.networks.scales import QUALITIES
from cdvision.training.checkpoint import Progress
from cdvision.training.rate_control import RateControl
from cdvision.training.transmission import transmit

AVERAGE_EVERY = 8  # steps; averaging millions of weights costs a tenth of a step


class SmallTrainer:
    """State of one run: model, moving average, optimiser, rate control, progress."""

    def __init__(self, teacher: Teacher, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        # Depth-wise convolutions run 1.7x faster with channels last, on CPU and GPU alike.
        layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.teacher = teacher.to(**layout).eval()
        self.model = Small().to(**layout)
        self.rate = RateControl().to(device)
        self.sensitivity = Sensitivity().to(device)
        freeze(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            parameter_groups(self.model, recipe), betas=(0.9, 0.99), eps=1e-12, fused=True
        )
        self.progress = Progress()

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {
            "model": self.model,
            "average": self.average,
            "rate": self.rate,
            "sensitivity": self.sensitivity,
        }

    def step(self, image: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """Train on one batch (N, 3, S, S) and return its terms."""
        image = image.contiguous(memory_format=torch.channels_last)
        quality = torch.from_numpy(rng.integers(QUALITIES, size=len(image))).to(self.device)
        with torch.no_grad():
            wanted = self.teacher.front(image)
        sent = transmit(self.model, self._sender_features(wanted.fine), quality)
        terms = self._terms(pack(wanted), sent.y)
        loss = sum((WEIGHTS[k] * v for k, v in terms.items()), torch.zeros((), device=self.device))
        pixels = image.shape[2] * image.shape[3]
        rate_loss = self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + rate_loss).backward()
        norm = nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p.requires_grad], 60.0
        )
        if torch.isfinite(norm):  # one bad batch must not end a run of hours
            self._schedule()
            self.optimizer.step()
        self.progress.step += 1
        if self.progress.step % AVERAGE_EVERY == 0:
            self._update_average()
        log = {k: float(v.detach()) for k, v in terms.items()}
        return log | {
            "rate": float(rate_loss.detach()),
            "bits": float(sent.bits.detach().mean()),
            "norm": float(norm),
        }

    def received_terms(self, image: Tensor, quality: Tensor) -> dict[str, Tensor]:
        """Return the terms of images (N, 3, S, S) for a receiver alone, at qualities (N,)."""
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            wanted = self.teacher.front(image)
            sent = transmit(self.model, self._sender_features(wanted.fine), quality)
        return self._terms(pack(wanted), sent.y)

    def _sender_features(self, fine: Tensor) -> Tensor:
        """Return what the sender's analysis reads: its own stage 3 on the shared stage 2."""
        return pack(DetectorFeatures(fine, self.model.encoder.front.stage3(fine)))

    def _terms(self, features: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Compare what the receiver computes from ``y`` with the teacher, from packed features."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            target = self.teacher.detect(unpack(features))
            found = self.model.detector_tap(y)
            tail = self.model.detector_tail
            pyramid = tail.pyramid(found)
            dense = DenseDetections(*tail.head(pyramid))
            terms = {"features": self.sensitivity.error(pack(found), features)}
            terms |= detection_loss(pyramid, dense, target)
        return {f"detect/{name}": value for name, value in terms.items()}

    def _schedule(self) -> None:
        """Warm up by steps, then fall as a cosine over the run's *time*: slow machines end too."""
        done = min(1.0, self.progress.seconds / (60 * self.recipe.minutes))
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        factor *= min(1.0, (self.progress.step + 1) / self.recipe.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, (1 + self.progress.step) / (10 + self.progress.step))
        decay **= AVERAGE_EVERY
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
