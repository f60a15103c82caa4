"""The recipe of `small`: distillation under a rate, one resumable command.

Nothing here needs labels: the targets are what the uncompressed networks compute for the photo.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from cdvision.networks.initial_weights import load_mobilenet, load_nanodet
from cdvision.networks.nanodet import DenseDetections
from cdvision.networks.quantisation import (
    add_uniform_noise,
    gaussian_bits,
    round_straight_through,
)
from cdvision.networks.small import HYPER_BOUND, LOWEST_SCALE, QUALITIES, SCALE_LEVELS, Small
from cdvision.resampling import resampling_matrix
from cdvision.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from cdvision.training.distillation import Teachers, classification_loss, detection_loss
from cdvision.training.initialise import index_step, initialise_small
from cdvision.training.photo_bank import PhotoBank
from cdvision.training.rate_control import TARGET_BYTES, RateControl

CLASSIFIER_CELLS = 28
LOG_EVERY = 50
AVERAGE_EVERY = 8  # steps; averaging millions of weights costs a tenth of a step
# The detector's gradients at the encoder are some thirty times the classifier's at equal weights.
WEIGHTS = {
    "detect/features": 0.5, "detect/pyramid": 1.0, "detect/scores": 1.0, "detect/boxes": 0.25,
    "classify/features": 2.0, "classify/embedding": 2.0, "classify/classes": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What a run of `cdvision train small` does; every field is an option of the command."""

    minutes: float = 150.0
    batch: int = 8
    learning_rate: float = 5e-4
    solved_rate: float = 1e-4
    pretrained_rate: float = 5e-5
    warmup_steps: int = 200
    average: float = 0.999
    save_minutes: float = 5.0
    seed: int = 0


class SmallTrainer:
    """State of one run: model, moving average, optimiser, rate control, progress."""

    def __init__(self, teachers: Teachers, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        # Depth-wise convolutions run 1.7x faster with channels last, on CPU and GPU alike.
        layout: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.teachers = teachers.to(**layout).eval()
        self.model = Small().to(**layout)
        self.rate = RateControl().to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            _groups(self.model, recipe), betas=(0.9, 0.99), fused=True
        )
        self.progress = Progress()

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds."""
        return {"model": self.model, "average": self.average, "rate": self.rate}

    def step(self, image: Tensor, rng: np.random.Generator) -> dict[str, float]:
        """Train on one batch (N, 3, S, S) and return its terms."""
        image = image.contiguous(memory_format=torch.channels_last)
        quality = torch.from_numpy(rng.integers(QUALITIES, size=len(image))).to(self.device)
        terms = self._terms(image, quality)
        loss = sum((WEIGHTS[k] * v for k, v in terms.items()), torch.zeros((), device=self.device))
        bits = self._bits
        rate_loss = self.rate(bits, quality, image.shape[2] * image.shape[3])
        self.optimizer.zero_grad(set_to_none=True)
        (loss + rate_loss).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 60.0)
        if torch.isfinite(norm):  # one bad batch must not end a run of hours
            self._schedule()
            self.optimizer.step()
        self.progress.step += 1
        if self.progress.step % AVERAGE_EVERY == 0:
            self._update_average()
        log = {k: float(v.detach()) for k, v in terms.items()}
        return log | {
            "rate": float(rate_loss.detach()),
            "bits": float(bits.detach().mean()),
            "norm": float(norm),
        }

    def _terms(self, image: Tensor, quality: Tensor) -> dict[str, Tensor]:
        y = self._transmit(image, quality)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            detection = self._detect(image, y)
            classification = self._classify(image, y)
        terms = {f"detect/{k}": v for k, v in detection.items()}
        return terms | {f"classify/{k}": v for k, v in classification.items()}

    def _transmit(self, image: Tensor, quality: Tensor) -> Tensor:
        """Quantise as the encoder does, count the bits and return the dequantised latents."""
        model = self.model
        scaled = model.encoder.scaled_latents(image, quality)
        z = model.encoder.hyper_latents(scaled)
        hyper = round_straight_through(z)
        noisy = add_uniform_noise(z).clamp(-HYPER_BOUND - 0.5, HYPER_BOUND + 0.5)
        index = model.hyper_decoder(hyper, quality)
        index = index[:, :, : scaled.shape[2], : scaled.shape[3]]
        scale = LOWEST_SCALE * torch.exp(index * index_step(SCALE_LEVELS))
        residual = scaled - model.dequantiser.means(hyper, scaled)
        bits = gaussian_bits(add_uniform_noise(residual), scale).flatten(1).sum(1)
        self._bits = bits + model.hyper_prior.bits(noisy, quality).flatten(1).sum(1)
        symbols = round_straight_through(residual) * (index > 0)  # skipped ones arrive as zero
        dequantised: Tensor = model.dequantiser(symbols, hyper, quality)
        return dequantised

    def _detect(self, image: Tensor, y: Tensor) -> dict[str, Tensor]:
        features = self.model.taps["nanodet_plus_m"](y)
        tail = self.model.tails["nanodet_plus_m"]
        pyramid = tail.pyramid(features)
        dense = DenseDetections(*tail.head(pyramid))
        return detection_loss(features, pyramid, dense, self.teachers.detect(image))

    def _classify(self, image: Tensor, y: Tensor) -> dict[str, Tensor]:
        cells = image.shape[2] // 8
        matrix = torch.from_numpy(resampling_matrix(cells, 0, cells, CLASSIFIER_CELLS)).to(y)
        matrix = matrix.expand(len(y), -1, -1)
        features = self.model.taps["mobilenet_v2"](y, matrix, matrix)
        tail = self.model.tails["mobilenet_v2"]
        embedding = tail.embed(features)
        logits = tail.classifier["1"](embedding)
        return classification_loss(features, embedding, logits, self.teachers.classify(image))

    def _schedule(self) -> None:
        """Warm up by steps, then fall as a cosine over the run's *time*: a slow machine ends too."""
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


# Parts that start from a good solution learn slowly, or the first hundred steps destroy it.
SOLVED = (
    "encoder.analysis.linear",
    "taps.nanodet_plus_m.expand",
    "taps.mobilenet_v2.expand",
    "taps.mobilenet_v2.project",
)


def _groups(model: Small, recipe: Recipe) -> list[dict[str, object]]:
    rates: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rates.setdefault(_rate(name, recipe), []).append(parameter)
    return [{"params": p, "lr": rate, "base_rate": rate} for rate, p in rates.items()]


def _rate(name: str, recipe: Recipe) -> float:
    """Learning rate of a parameter; those that live on a larger scale leap, or rates would lag."""
    if name.startswith(("encoder.front", "tails.")):
        return recipe.pretrained_rate
    if name.startswith(SOLVED):
        return recipe.solved_rate
    if name.startswith("hyper_decoder") and "bias" in name:
        return 40 * recipe.learning_rate
    if name.startswith("hyper_prior") or name.endswith(("log_gain", "log_rescale")):
        return 10 * recipe.learning_rate
    return recipe.learning_rate


def train_small(
    banks: Sequence[PhotoBank], weights: Path, out: Path, recipe: Recipe, device: torch.device
) -> Small:
    """Train, or resume, until the recipe's minutes are spent; return the averaged model.

    Args:
        banks: groups of decoded photos.
        weights: folder of the initial weights.
        out: folder of the checkpoint and the log; a checkpoint found there is resumed.
        recipe: lengths, sizes and rates.
        device: where to train.
    """
    torch.manual_seed(recipe.seed)
    trainer = SmallTrainer(Teachers(load_nanodet(weights), load_mobilenet(weights)), recipe, device)
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.is_file():
        trainer.progress = load_checkpoint(checkpoint, trainer.modules(), trainer.optimizer)
    else:
        rng = np.random.default_rng(recipe.seed)
        images = [bank.batch(16, rng) for bank in banks]
        initialise_small(trainer.model, trainer.teachers, images, SCALE_LEVELS)
        trainer.average.load_state_dict(trainer.model.state_dict())
    _loop(trainer, banks, out)
    _write_result(trainer, banks, out)
    return trainer.average


def _write_result(trainer: SmallTrainer, banks: Sequence[PhotoBank], out: Path) -> None:
    """Write the averaged weights in half precision, and what a card says of the training."""
    state = trainer.average.state_dict()
    save_file(
        {k: v.half().cpu().contiguous() for k, v in state.items()}, out / "weights.safetensors"
    )
    record = {
        "recipe": asdict(trainer.recipe),
        "steps": trainer.progress.step,
        "device": trainer.device.type,
        "photos": sum(len(bank.photos) for bank in banks),
        "crops": trainer.progress.step * trainer.recipe.batch,
        "target_bytes": TARGET_BYTES,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _loop(trainer: SmallTrainer, banks: Sequence[PhotoBank], out: Path) -> None:
    recipe, progress = trainer.recipe, trainer.progress
    rng = np.random.default_rng((recipe.seed, progress.step))
    shares = np.array([bank.plan.share for bank in banks])
    budget, saved = 60 * recipe.minutes, progress.seconds
    log: list[dict[str, float]] = []
    bar = tqdm(total=round(budget), initial=round(progress.seconds), unit="s", disable=None)
    while progress.seconds < budget:
        started = time.perf_counter()
        bank = banks[rng.choice(len(banks), p=shares / shares.sum())]
        log.append(trainer.step(bank.batch(recipe.batch, rng), rng))
        progress.seconds += time.perf_counter() - started
        bar.update(round(progress.seconds) - bar.n)
        if progress.step % LOG_EVERY == 0:
            _write_log(out, trainer, log)
            log = []
        if progress.seconds - saved > 60 * recipe.save_minutes:
            save_checkpoint(
                out / "checkpoint.safetensors", trainer.modules(), trainer.optimizer, progress
            )
            saved = progress.seconds
    save_checkpoint(out / "checkpoint.safetensors", trainer.modules(), trainer.optimizer, progress)


def _write_log(out: Path, trainer: SmallTrainer, log: Sequence[dict[str, float]]) -> None:
    record = {
        "step": trainer.progress.step,
        "seconds": round(trainer.progress.seconds, 1),
        "bytes": [round(r) for r in trainer.rate.rates()],
        **{key: round(float(np.mean([step[key] for step in log])), 4) for key in log[0]},
    }
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
