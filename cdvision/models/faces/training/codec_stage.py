"""What the codec stages share: a frozen encoder before, a generator and a head behind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cdvision.models.faces.codec import FaceCodec
from cdvision.models.faces.training.networks import FaceNetworks
from cdvision.models.faces.training.options import check_bytes
from cdvision.models.faces.training.perceptual import PerceptualLoss
from cdvision.models.faces.training.style_metric import StyleMetric
from cdvision.training.plan import Plan
from cdvision.training.rate_control import REFERENCE_PIXELS, RateControl, targets_between
from cdvision.training.stage import Stage

PICTURES = slice(4)  # faces of a batch that are drawn, where pictures count
STEERING = 0.02

Codec = TypeVar("Codec", bound=FaceCodec)


class FaceCodecStage(Stage, Generic[Codec]):
    """Train a codec in place on ``rows`` (M, rows, style) of faces; other networks are frozen.

    Where it ``goes_on``, the codec is trained already, and its start stays.
    """

    probed: int  # faces from which the metric is measured

    def __init__(
        self,
        networks: FaceNetworks,
        codec: Codec,
        rows: Tensor,
        plan: Plan,
        *,
        perceptual: PerceptualLoss | None,
        goes_on: bool,
    ) -> None:
        self.networks = networks.to(plan.device).eval().requires_grad_(False)
        self.codec, self.plan, self.goes_on = codec.to(plan.device).train(), plan, goes_on
        self.rows = rows.to(plan.device)
        self.perceptual = None if perceptual is None else perceptual.to(plan.device)
        self.metric = StyleMetric(rows[0].numel()).to(plan.device)

    @property
    @abstractmethod
    def controls(self) -> dict[str, RateControl]:
        """What steers the bytes of each part of a stream, by its name."""

    def result(self) -> nn.Module:
        """Return the codec."""
        return self.codec

    def watched(self) -> dict[str, Any]:
        """Return the running bytes of each part."""
        return {
            f"{name}_bytes": [round(rate, 1) for rate in control.rates()]
            for name, control in self.controls.items()
        }

    def measure_metric(self, rng: np.random.Generator) -> Tensor:
        """Measure which errors of rows count; return the positions of the faces that told it."""
        chosen = torch.from_numpy(rng.permutation(len(self.rows))[: self.probed])
        chosen = chosen.to(self.plan.device)
        readers = (self.networks.generator.synthesise, self._weighted_logits)
        self.metric.measure(self.rows[chosen], readers)
        return chosen

    def rate(self, noisy: Iterable[Tensor], bits: Iterable[Tensor], quality: Tensor) -> Tensor:
        """Return the weighted rate of a batch, from the bits (N,) of each part."""
        parts = zip(self.controls.values(), noisy, bits, strict=True)
        # A face counts as one reference photo, whatever its pixels: targets are bytes of a face.
        terms = [control(n, b, quality, REFERENCE_PIXELS) for control, n, b in parts]
        return torch.stack(terms).sum()

    def picture_errors(
        self, perceptual: PerceptualLoss, sent: Iterable[tuple[Tensor, ...]], *wanted: Tensor
    ) -> Tensor:
        """Return how far pictures of what was sent are from those of the ``wanted`` codes."""
        draw = self.networks.generator.synthesise
        with torch.no_grad():
            target = draw(*(code[PICTURES] for code in wanted))
        drawn = [draw(*(code[PICTURES] for code in codes)) for codes in sent]
        return torch.stack([perceptual(picture, target) for picture in drawn]).sum()

    def _weighted_logits(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.networks.head(rows)
        # By the variance of the answer: where the head is certain, no error can change it.
        probability = torch.sigmoid(logits.detach())
        return logits * (probability * (1 - probability)).sqrt()


def kept_numbers(name: str, *shape: int) -> nn.Module:
    """Return a module that keeps a buffer of ones, for a checkpoint."""
    module = nn.Module()
    module.register_buffer(name, torch.ones(shape))
    return module


def attribute_divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence, in nats an attribute, of logits from ``wanted`` ones."""
    probability = torch.sigmoid(wanted)
    cross = F.binary_cross_entropy_with_logits(found, probability)
    # Less the entropy of the wanted answers: 0 where both are equal, whatever they are.
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
