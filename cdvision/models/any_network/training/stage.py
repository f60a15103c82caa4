"""The stage that trains one encoder, its latents and a tap for each network that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cdvision.fitting.network import SplitNetwork
from cdvision.fitting.stage import output_error
from cdvision.models.any_network.graphs import FRONTS, NETWORK, TAILS
from cdvision.models.any_network.network import AnyNetworkModel, AnyNetworkShape
from cdvision.models.any_network.training.start import NetworkMetric, start_latents, start_taps
from cdvision.networks.scales import QUALITIES
from cdvision.training.finished import Finished, fill_module
from cdvision.training.learning_rates import codec_rate, group_by_rate
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.plan import Plan
from cdvision.training.rate_control import (
    RateControl,
    measure_prices,
    recorded_prices,
    restore_prices,
)
from cdvision.training.stage import Stage
from cdvision.training.transmission import Transmission, transmit
from cdvision.training.weight_average import WeightAverage

LEARNING_RATE, SOLVED_RATE, BLOCK_RATE = 5e-4, 2e-4, 1e-3
ANALYSIS_RATE = 1e-4
RATE_SPEED = 0.03  # of rate control: runs of one's own may have a few hundred steps only
START_BATCHES, START_SIZE = 10, 16  # crops from which a run's start is computed
WEIGHT = 16.0  # of all networks together: what rate control begins at the right multipliers for
OUTPUT_SHARE = 0.3  # of a network's weight; its features have the rest
OUTPUT_CROPS = 2  # of a batch, whose outputs are compared: tails cost more than all else


class EncoderStage(Stage):
    """Trains ``AnyNetworkModel`` for frozen networks, by name and in the order of the shape.

    ``targets`` are bytes of a reference photo at each quality. Without a ``start`` of the same
    shape to go on from, it starts from the best linear code.
    """

    name = "encoder"

    def __init__(
        self,
        shape: AnyNetworkShape,
        networks: Mapping[str, SplitNetwork],
        bank: PhotoBank,
        plan: Plan,
        targets: Sequence[float],
        *,
        start: Finished | None = None,
    ) -> None:
        torch.manual_seed(plan.seed)
        self.networks, self.bank, self.plan, self._targets = networks, bank, plan, tuple(targets)
        layout: dict[str, Any] = {"device": plan.device, "memory_format": torch.channels_last}
        self.model = AnyNetworkModel(shape).to(**layout)
        self.start = start
        if start is not None:
            start.require_network(NETWORK)
            # A package holds the weights of its networks, too.
            networks_own = (FRONTS, TAILS)
            weights = {k: v for k, v in start.weights().items() if not k.startswith(networks_own)}
            fill_module(self.model, weights, start.folder)
        self.average = WeightAverage(self.model)
        self.rate = RateControl(self._targets, speed=RATE_SPEED).to(plan.device)
        self.metrics = {
            name: NetworkMetric(spec).to(plan.device) for name, spec in shape.features.items()
        }
        self.optimizer = torch.optim.Adam(
            group_by_rate(self.model, _learning_rate), betas=(0.9, 0.99), eps=1e-12, fused=True
        )

    def begin(self, rng: np.random.Generator) -> None:
        """Set latents, probabilities and taps from crops of training photos, or go on."""
        images = [self._crops(START_SIZE, rng) for _ in range(START_BATCHES)]
        if self.start is not None:
            self._go_on(self.start, images)
            return
        start_latents(self.model, self.networks, self.metrics, images, self._targets)
        start_taps(self.model, self.networks, self._crops, rng)
        self.average.restart(self.model)

    def _go_on(self, start: Finished, images: Sequence[Tensor]) -> None:
        """Take over metrics and prices of bytes; what a package does not hold is measured."""
        if metrics := start.checkpointed("metrics"):
            nn.ModuleDict(self.metrics).load_state_dict(metrics)
        else:
            for name, network in self.networks.items():
                self.metrics[name].measure(network, images)
        if not restore_prices(self.rate, start):
            measure_prices(self.rate, self._error_and_bits, images)

    def _error_and_bits(self, image: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        sent, terms = self._compare(image, quality)
        return self._weighted_sum(terms), sent.bits

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        codec = {"model": self.model, "average": self.average}
        return {**codec, "rate": self.rate, "metrics": nn.ModuleDict(self.metrics)}

    def result(self) -> nn.Module:
        """Return the averaged model."""
        return self.average.network

    def loss(self, rng: np.random.Generator, done: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Encode a batch at random qualities and compare what each network gets of it."""
        image = self._crops(self.plan.batch, rng)
        quality = torch.from_numpy(rng.integers(QUALITIES, size=len(image))).to(image.device)
        sent, terms = self._compare(image, quality)
        pixels = image.shape[2] * image.shape[3]
        rate = self.rate(sent.noisy_bits, sent.bits, quality, pixels)
        error = self._weighted_sum(terms)
        return error + rate, terms | {"rate": rate, "bits": sent.bits.mean()}

    def after_step(self) -> None:
        """Follow with the average."""
        self.average.follow(self.model)

    def watched(self) -> dict[str, Any]:
        """Return running bytes of a reference photo at each quality."""
        return {"bytes": [round(rate) for rate in self.rate.rates()]}

    def record(self) -> dict[str, Any]:
        """Return facts for the card."""
        facts = {"photos": len(self.bank.photos), "target_bytes": list(self._targets)}
        start = {} if self.start is None else {"start": self.start.record}
        return {**facts, **recorded_prices(self.rate), **start}

    def _crops(self, size: int, rng: np.random.Generator) -> Tensor:
        return self.bank.batch(size, rng).contiguous(memory_format=torch.channels_last)

    def _compare(self, image: Tensor, quality: Tensor) -> tuple[Transmission, dict[str, Tensor]]:
        """Send images (N, 3, S, S) at qualities (N,); compare what each network gets of them."""
        features = {name: n.features(image) for name, n in self.networks.items()}
        # The mix is set at the start and stays, and fronts are frozen: nothing to learn up to here.
        with torch.no_grad():
            gathered = self.model.encoder.gather(list(features.values()))
        sent = transmit(self.model, gathered, quality)
        terms: dict[str, Tensor] = {}
        for name, wanted in features.items():
            terms |= self._network_terms(name, sent.y, quality, wanted)
        return sent, terms

    def _weighted_sum(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Add the terms up: every network has the same weight, its outputs a share of it."""
        each = WEIGHT / len(self.networks)
        weighted = []
        for term, value in terms.items():
            name, part = term.split("/")
            outputs = OUTPUT_SHARE if f"{name}/outputs" in terms else 0.0
            weighted.append(each * (outputs if part == "outputs" else 1 - outputs) * value)
        return torch.stack(weighted).sum()

    def _network_terms(
        self, name: str, y: Tensor, quality: Tensor, wanted: Tensor
    ) -> dict[str, Tensor]:
        # The latents are not under autocast: bfloat16 would round their steps away.
        with self.plan.autocast():
            found = self.model.tap(name)(y, quality)
            terms = {f"{name}/features": self.metrics[name].error(found, wanted)}
        network = self.networks[name]
        if network.passes_gradients:
            with torch.no_grad():
                targets = network.outputs(wanted[:OUTPUT_CROPS])
            outputs = network.outputs(found[:OUTPUT_CROPS].float())
            if any(value.requires_grad for value in outputs.values()):
                terms[f"{name}/outputs"] = output_error(outputs, targets)
        return terms


def _learning_rate(name: str) -> float:
    """What starts from a good solution learns slowly, or the first steps destroy it."""
    if name.startswith("encoder.analysis.linear"):
        return ANALYSIS_RATE
    if name.startswith("taps."):
        return BLOCK_RATE if ".blocks." in name else SOLVED_RATE
    return codec_rate(name, LEARNING_RATE)
