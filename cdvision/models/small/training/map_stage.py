"""The stages of `small`'s map: what arrives of a photo, compared with the uncompressed detector.

Nothing here needs labels: the targets are what the detector computes for the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.models.small.nanodet import PLAIN, DenseDetections, DetectorFeatures
from cdvision.models.small.nanodet_weights import load_nanodet
from cdvision.models.small.network import Small, pack, unpack
from cdvision.models.small.training.distillation import (
    Sensitivity,
    Teacher,
    detection_loss,
    weighted_sum,
)
from cdvision.models.small.training.initialise import start_small
from cdvision.models.small.training.options import MapOptions
from cdvision.networks.scales import QUALITIES
from cdvision.training.finished import Finished, fill_module
from cdvision.training.learning_rates import codec_rate, group_by_rate
from cdvision.training.photo_bank import PhotoBank, count_photos, draw_batch
from cdvision.training.plan import Plan
from cdvision.training.protocols import channels_last, lay_out
from cdvision.training.rate_control import (
    TARGET_BYTES,
    RateControl,
    measure_prices,
    recorded_prices,
    restore_prices,
)
from cdvision.training.stage import Stage
from cdvision.training.transmission import Transmission, transmit
from cdvision.training.weight_average import MEMORY, WeightAverage

START_BATCHES, START_SIZE = 3, 16  # of each group of photos, from which a start is computed
MAP_MEMORY = 0.999  # of the average: a run of thousands of steps may look far back
MASKS = "masks."  # begins the names of the mask branch's weights
SOLVED = ("encoder.analysis.linear", f"taps.{PLAIN}.fine", f"taps.{PLAIN}.coarse")
# Up to stage 2 the front stays as it came: a step then needs no gradient above 1/16, and the
# teacher shares it. The descriptor is computed apart, see ``descriptor.py``; the classifier stays.
FROZEN = (
    "encoder.front.stem.", "encoder.front.stage2.",
    "descriptor.", "taps.mobilenet_v2.", "tails.mobilenet_v2.",
)  # fmt: skip


class DistilledStage(Stage):
    """What the stages of the map share: the model, the detector that it learns from, the photos.

    ``weights`` is the folder of the initial weights, ``memory`` the average's, ``detector`` the
    receiver's, which is the teacher too.
    """

    def __init__(
        self,
        weights: Path,
        banks: Sequence[PhotoBank],
        plan: Plan,
        *,
        detector: str = PLAIN,
        memory: float = MEMORY,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.initial_weights, self.banks, self.plan = weights, banks, plan
        self.teacher = lay_out(Teacher(*load_nanodet(weights, detector)), plan.device).eval()
        self.model = lay_out(Small(detector), plan.device)
        self.average = WeightAverage(self.model, memory=memory)
        self.rate = RateControl().to(plan.device)
        self.sensitivity = Sensitivity(self.model.width.packed).to(plan.device)

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds, and what a run that goes on from here needs."""
        return {name: getattr(self, name) for name in ("model", "average", "rate", "sensitivity")}

    def result(self) -> nn.Module:
        """Return the averaged model."""
        return self.average.network

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.model)

    def record(self) -> dict[str, Any]:
        """Return facts for the card; the prices of bytes are for a run that goes on from it."""
        return {"photos": count_photos(self.banks), **recorded_prices(self.rate)}

    def draw_crops(self, rng: np.random.Generator) -> Tensor:
        """Draw a batch (N, 3, S, S) of crops, RGB 0..255."""
        return channels_last(draw_batch(self.banks, self.plan.batch, rng), self.plan.device)

    def draw_start(self, rng: np.random.Generator) -> list[Tensor]:
        """Draw the crops from which a start is computed, some batches of each group."""
        drawn = [bank.batch(START_SIZE, rng) for bank in self.banks for _ in range(START_BATCHES)]
        return [channels_last(batch, self.plan.device) for batch in drawn]

    def restore(self, start: Finished, images: Sequence[Tensor]) -> None:
        """Take over metric and prices of a start; measure on (N, 3, S, S) what it does not tell."""
        self.restore_metric(start, images)
        self.restore_prices(start, images)

    def restore_metric(self, start: Finished, images: Sequence[Tensor]) -> None:
        """Take over the metric of a start with this detector, or measure it."""
        metric = start.checkpointed("sensitivity")
        if metric and metric["root"].shape == self.sensitivity.root.shape:
            self.sensitivity.load_state_dict(metric)
        else:
            self.sensitivity.measure(self.teacher, images)

    def restore_prices(self, start: Finished, images: Sequence[Tensor]) -> None:
        """Take over what a byte is worth, or measure it."""
        if not restore_prices(self.rate, start):
            measure_prices(self.rate, self._error_and_bits, images)

    def _error_and_bits(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        arrived, terms = self.compare(image, quality)
        return weighted_sum(terms), arrived.bits

    def compare(self, image: Tensor, quality: Tensor) -> tuple[Transmission, dict[str, Tensor]]:
        """Send images (N, 3, S, S) at qualities (N,); compare what arrives with the detector."""
        sent, wanted = self.send(image, quality)
        return sent, self.compare_received(pack(wanted), sent.y)

    def send(self, image: Tensor, quality: Tensor) -> tuple[Transmission, DetectorFeatures]:
        """Return what arrives of images (N, 3, S, S), and the teacher's features of them."""
        with torch.no_grad():
            wanted = self.teacher.front(image)
        return transmit(self.model, self._sender_features(image, wanted), quality), wanted

    def _sender_features(self, image: Tensor, wanted: DetectorFeatures) -> Tensor:
        """Return what the sender's analysis reads, packed."""
        if self.model.detector != PLAIN:
            return self.model.encoder.features(image)
        # The sender has its own stage 3, on the stage 2 that it shares with the teacher.
        stage3 = self.model.encoder.front.stage3(wanted.fine)
        return pack(DetectorFeatures(wanted.fine, stage3))

    def compare_received(self, features: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Compare what a receiver computes from ``y`` with the teacher on packed features."""
        with self.plan.autocast():
            target = self.teacher.detect(unpack(features, self.model.width))
            found = self.model.detector_tap(y)
            tail = self.model.detector_tail
            pyramid = tail.pyramid(found)
            dense = DenseDetections(*tail.head(pyramid))
            terms = {"features": self.sensitivity.error(pack(found), features)}
            terms |= detection_loss(pyramid, dense, target)
        return {f"detect/{name}": value for name, value in terms.items()}


class MapStage(DistilledStage):
    """Trains the map: sender, probabilities, taps and tails together.

    It goes on from ``start``, with the whole schedule anew, or else begins with a linear code.
    Raises CdvisionError where ``start`` is of another network.
    """

    name = "small"

    def __init__(
        self,
        weights: Path,
        banks: Sequence[PhotoBank],
        plan: Plan,
        options: MapOptions | None = None,
        *,
        start: Finished | None = None,
    ) -> None:
        super().__init__(weights, banks, plan, memory=MAP_MEMORY)
        self.options, self.start = options or MapOptions(), start
        groups = parameter_groups(self.model, self.options)
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=True)
        if start is not None:
            fill_small(self.model, start)

    def begin(self, rng: np.random.Generator) -> None:
        """Start from what a run or package has reached, or from the best linear code."""
        images = self.draw_start(rng)
        if self.start is not None:
            self.restore(self.start, images)
        else:
            self.sensitivity.measure(self.teacher, images)
            start_small(
                self.model, self.teacher, self.sensitivity, images, self.initial_weights,
                few=images[::START_BATCHES],
            )  # fmt: skip
        self.average.restart(self.model)

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode a batch at random qualities and compare what the detector gets of it."""
        # Every image has a quality of its own: a step learns several rates at once.
        image = self.draw_crops(rng)
        drawn = torch.from_numpy(rng.integers(QUALITIES, size=len(image)))
        quality = drawn.to(self.plan.device)
        sent, terms = self.compare(image, quality)
        pixels = image.shape[2] * image.shape[3]
        rate = self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        return weighted_sum(terms) + rate, terms | {"rate": rate, "bits": sent.bits.mean()}

    def watched(self) -> dict[str, Any]:
        """Return running bytes of a reference photo at each quality."""
        return {"bytes": [round(rate) for rate in self.rate.rates()]}

    def record(self) -> dict[str, Any]:
        """Return facts for the card, those of the start among them."""
        facts = {**super().record(), **asdict(self.options), "target_bytes": TARGET_BYTES}
        return facts if self.start is None else {**facts, "start": self.start.record}


def parameter_groups(model: Small, options: MapOptions) -> list[dict[str, Any]]:
    """Freeze what stays as it came; group the other parameters by learning rate."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))

    def rate(name: str) -> float:
        if name.startswith(("tails.", "encoder.front.")):
            return options.pretrained_rate
        if name.startswith(SOLVED):
            return options.solved_rate
        return codec_rate(name, options.learning_rate)

    return group_by_rate(model, rate)


def fill_small(model: Small, start: Finished) -> dict[str, Tensor]:
    """Fill a model with what a run or package has reached; return its mask branch's weights."""
    start.require_network("small")
    weights = start.weights()
    masks = {name: value for name, value in weights.items() if name.startswith(MASKS)}
    needed = {k: v for k, v in weights.items() if not k.startswith((MASKS, "wide_front."))}
    fill_module(model, needed, start.folder)
    return masks
